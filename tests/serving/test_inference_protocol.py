"""The Open Inference Protocol: by Triton's own client against a real service, and every way to be wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from loadtests.local_service import LocalService
from models.pixels import read_pixels
from models.spec import CIFAR_PREPROCESSING
from serving.http_api import HttpApi
from serving.opened import Opened
from serving.tensor_request import LOOKED_AT, PIXELS, values
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening

MOST_BYTES = 300_000
HEADER = "inference-header-content-length"
URL = f"/v2/models/{PAIR[0]}/infer"


@pytest.fixture(scope="module")
def opened(exported_pair: tuple[str, str]) -> Iterator[Opened]:
    with opening(exported_pair, max_tensor_bytes=MOST_BYTES) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(opened: Opened) -> TestClient:
    return TestClient(HttpApi(PlainTextResponse("BentoML's own"), opened))


@pytest.fixture(scope="module")
def triton(service: LocalService) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(service.url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return read_pixels(io.BytesIO(encoded()), CIFAR_PREPROCESSING, 10**6)[np.newaxis]


def tensor(pixels: np.ndarray, *, binary: bool = True) -> InferInput:
    given = InferInput("images", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels, binary_data=binary)
    return given


def test_tritons_client_finds_the_server_and_its_models(triton: InferenceServerClient, service: LocalService) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert set(triton.get_server_metadata()["extensions"]) == {"binary_tensor_data", "classification"}
    for variant in PAIR:
        assert triton.is_model_ready(variant)
        described = triton.get_model_metadata(variant)
        assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
        assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
        (version,) = described["versions"]
        assert triton.is_model_ready(variant, version)
        assert not triton.is_model_ready(variant, "another")
        configured = triton.get_model_config(variant)
        assert configured["max_batch_size"] == 64
        assert configured["input"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": [32, 32, 3]}]
    assert not triton.is_model_ready("resnet50-preact")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("variant", PAIR)
def test_the_softmax_of_its_logits_is_what_classify_answers(
    triton: InferenceServerClient, service: LocalService, pixels: np.ndarray, variant: str, binary: bool
) -> None:
    wanted = InferRequestedOutput("logits", binary_data=binary)
    found = triton.infer(variant, [tensor(pixels, binary=binary)], outputs=[wanted], request_id="mine")
    assert found.get_response()["id"] == "mine"
    (logits,) = found.as_numpy("logits").astype(np.float64)
    assert found.as_numpy("logits").dtype == np.float32
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    answer = httpx.post(f"{service.url}/classify?variant={variant}&top_k=10", content=encoded()).json()
    for prediction in answer["predictions"]:
        assert prediction["probability"] == pytest.approx(probabilities[prediction["index"]], abs=1e-6)


def test_batches_and_classes(triton: InferenceServerClient, service: LocalService) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    logits = triton.infer(PAIR[1], [tensor(images)]).as_numpy("logits")
    assert logits.shape == (64, 10)
    for binary in (True, False):
        wanted = InferRequestedOutput("logits", binary_data=binary, class_count=3)
        best = triton.infer(PAIR[1], [tensor(images)], outputs=[wanted]).as_numpy("logits")
        assert best.shape == (64, 3)
        value, index, label = (best[5, 0].decode() if binary else str(best[5, 0])).split(":")
        assert int(index) == logits[5].argmax()
        assert float(value) == pytest.approx(float(logits[5].max()), abs=1e-5)
        variants = httpx.get(f"{service.url}/variants").json()["variants"]
        assert label == variants[1]["labels"][int(index)]


def test_what_was_asked_is_counted(triton: InferenceServerClient, pixels: np.ndarray) -> None:
    before, _ = (stats(triton, variant) for variant in PAIR)
    triton.infer(PAIR[0], [tensor(np.repeat(pixels, 5, axis=0))])
    after = stats(triton, PAIR[0])
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert len(triton.get_inference_statistics()["model_stats"]) == 2


def stats(triton: InferenceServerClient, variant: str) -> dict[str, Any]:
    (found,) = triton.get_inference_statistics(variant)["model_stats"]
    return dict(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "image"}, "the model has another input; found image; accepted: images"),
        ({"datatype": "FP32"}, f"images has another datatype: {PIXELS}; found FP32; accepted: UINT8"),
        ({"shape": [1, 3, 32, 32]}, "images has another shape; found [1, 3, 32, 32]; accepted: [1 to 64, 32, 32, 3]"),
        ({"shape": [0, 32, 32, 3]}, "another shape"),
        ({"shape": [65, 32, 32, 3]}, "another shape"),
        ({"shape": []}, "another shape"),
        ({"shape": "1"}, "inputs.0.shape"),
        ({"data": [0] * 3071}, "`data` of images has to be 3072 whole numbers"),
        ({"data": [[0] * 3071, [0]]}, "whole numbers"),
        ({"data": [0.5] * 3072}, f"whole numbers: {PIXELS}; found 0.5, 0 bytes"),
        ({"data": [[[[0, 1, 0.485]] * 32] * 32]}, f"whole numbers: {PIXELS}; found 0.485, 0 bytes"),
        ({"data": [0] * 9_999 + [0.5]}, "found 0.5, 0 bytes"),
        ({"data": [0] * 10_000 + [0.5]}, "found a list of 10001, 0 bytes"),
        ({"data": [True] * 3072}, "whole numbers"),
        ({"data": ["0"] * 3072}, "found a str, 0 bytes"),
        ({"data": [256] * 3072}, "is of bytes; found a number above 255; accepted: 0 to 255"),
        ({"data": [-1] * 3072}, "is of bytes"),
        ({"data": [10**30] * 3072}, "is of bytes"),
        ({"data": [["a" * 1000] + [""] * 3071]}, "found a str, 0 bytes"),
        ({"data": [[]] * 5000}, "found a list of 0, 0 bytes"),
        ({"data": [[[[[0]]]]] * 3072}, "found a list of 1, 0 bytes"),
        ({"data": None}, "whole numbers"),
        ({"parameters": {"binary_data_size": 3072}}, "has 3072 bytes by its shape"),
    ],
)
def test_a_wrong_tensor_is_told_what_is_expected(client: TestClient, change: dict[str, Any], message: str) -> None:
    given = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072} | change
    answer = client.post(URL, json={"inputs": [given]})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]


def test_of_what_is_wrong_no_more_is_walked_than_is_told() -> None:
    """Each step of the walk yields, whatever the lists hold."""
    for hostile in ([[]] * 10**6, [[[], []]] * 10**6, [[[[[0] * 9]]]] * 10**6):
        assert sum(1 for _ in zip(values(hostile, 4), range(LOOKED_AT), strict=False)) == LOOKED_AT


GOOD = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "parameters": {"binary_data_size": 3072}}


def binary_body(given: dict[str, Any] = GOOD, size: int = 3072, **more: Any) -> tuple[bytes, int]:
    header = json.dumps({"inputs": [given]} | more).encode()
    return header + bytes(size), len(header)


@pytest.mark.parametrize(
    ("size", "length", "message"),
    [
        (3071, None, "3071 bytes behind the JSON"),
        (3073, None, "3073 bytes behind the JSON"),
        (3072, "1" * 50, "is no number of bytes of this body"),
        (3072, "-1", "is no number of bytes of this body"),
        (3072, "²", "is no number of bytes of this body"),
        (3072, "10", "the first 10 bytes are not JSON"),
    ],
)
def test_binary_bodies_of_the_wrong_size_are_refused(
    client: TestClient, size: int, length: str | None, message: str
) -> None:
    body, header = binary_body(size=size)
    answer = client.post(URL, content=body, headers={HEADER: (length or str(header)).encode()})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"name": "probabilities"}], "the model has one output; found probabilities; accepted: logits"),
        ([{"name": "logits"}, {"name": "logits"}], "the model has one output"),
        ([{"name": "logits", "parameters": {"classification": "3"}}], "classification a whole number"),
        ([{"name": "logits", "parameters": {"classification": -3}}], "classification a whole number"),
        ([{"name": "logits", "parameters": {"binary_data": 1}}], "binary_data is true or false"),
    ],
)
def test_wrong_outputs_are_refused(client: TestClient, outputs: list[dict[str, Any]], message: str) -> None:
    body, length = binary_body(outputs=outputs)
    answer = client.post(URL, content=body, headers={HEADER: str(length)})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "options"),
    [
        ("GET", "/v2/models/resnet50-preact", 404, {}),
        ("GET", f"/v2/models/{PAIR[0]}/versions/1", 404, {}),
        ("GET", "/v2/models", 404, {}),
        ("GET", "/v2/repository/index", 404, {}),
        ("GET", URL, 405, {}),
        ("POST", "/v2/health/live", 405, {}),
        ("POST", URL, 400, {"content": b""}),
        ("POST", URL, 400, {"content": b"[" * 100_000}),
        ("POST", URL, 400, {"json": {"inputs": []}}),
        ("POST", URL, 400, {"json": []}),
        ("POST", URL, 413, {"content": bytes(MOST_BYTES + 1)}),
        ("POST", URL, 415, {"content": b"x", "headers": {"content-encoding": "gzip"}}),
    ],
)
def test_wrong_requests_get_one_sentence(
    client: TestClient, method: str, path: str, status: int, options: dict[str, Any]
) -> None:
    answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_a_client_of_triton_sees_the_sentence(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="images has another shape; found"):
        triton.infer(PAIR[0], [tensor(np.zeros((1, 3, 32, 32), np.uint8))])


def test_without_models_it_is_live_and_not_ready() -> None:
    client = TestClient(HttpApi(PlainTextResponse(""), Opened()))
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 400
    answer = client.get(f"/v2/models/{PAIR[0]}/ready")
    assert (answer.status_code, list(answer.json())) == (503, ["error"])


def test_its_health_is_that_of_the_probes(client: TestClient, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def statuses() -> list[int]:
        paths = ("/livez", "/v2/health/live", "/readyz", "/v2/health/ready", f"/v2/models/{PAIR[0]}/ready")
        return [client.get(path).status_code for path in paths]

    assert statuses() == [200, 200, 200, 200, 200]
    opened.draining = True
    try:
        assert statuses() == [200, 200, 503, 400, 400]
    finally:
        opened.draining = False
    assert opened.classifier is not None
    monkeypatch.setattr(type(opened.classifier.served[PAIR[0]].runner), "fault", "cudaErrorLaunchFailure")
    assert statuses() == [503, 400, 503, 400, 400]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_the_protocol_has_not_is_404_whatever_the_method(client: TestClient, method: str) -> None:
    assert client.request(method, "/v2/health").status_code == 404


def test_a_full_service_answers_429(client: TestClient, opened: Opened) -> None:
    assert opened.classifier is not None
    opened.in_flight = opened.classifier.settings.max_in_flight
    try:
        answer = client.post(URL, content=b"{}")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    finally:
        opened.in_flight = 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "classification"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    ),
    st.binary(max_size=20),
)
def test_no_body_is_a_fault_of_the_service(client: TestClient, body: Any, tail: bytes) -> None:
    content = json.dumps(body).encode()
    answer = client.post(URL, content=content + tail, headers={HEADER: str(len(content))} if tail else {})
    assert 400 <= answer.status_code < 500
