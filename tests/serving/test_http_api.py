"""The routes in this process: every answer, and every way to be wrong."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.classifier import Classifier
from serving.config import Settings
from serving.errors import ErrorAnswer
from serving.http_api import HttpApi
from serving.keys import Keys
from serving.opened import Opened
from serving.runners.machine import Machine
from tests.conftest import PAIR

MAX_BYTES, MAX_PIXELS = 200_000, 1_000_000


def encoded(kind: str = "PNG", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def one_bit_png(width: int, height: int) -> bytes:
    """A valid black PNG of any size, small enough to send."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    packed = b"".join(rows.compress(line) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@contextmanager
def opening(tags: tuple[str, ...], keys: Keys | None = None, **limits: object) -> Iterator[Opened]:
    """What a worker with these settings has opened."""
    found = Opened(Classifier(tags, Settings.model_validate({"threads": 2} | limits), Machine()), keys)
    yield found
    found.close()


@pytest.fixture(scope="module")
def opened(exported_pair: tuple[str, str]) -> Iterator[Opened]:
    with opening(exported_pair, max_image_bytes=MAX_BYTES, max_image_pixels=MAX_PIXELS) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(opened: Opened) -> TestClient:
    return TestClient(HttpApi(PlainTextResponse("BentoML's own"), opened))


@pytest.fixture(scope="module")
def openapi(client: TestClient) -> dict[str, Any]:
    described: dict[str, Any] = client.get("/docs.json").json()
    return described


@pytest.mark.parametrize("variant", PAIR)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_an_image_is_classified_by_the_variant_that_was_asked(client: TestClient, kind: str, variant: str) -> None:
    response = client.post(
        f"/classify?variant={variant}&top_k=3", content=encoded(kind), headers={"content-type": "image/any"}
    )
    assert response.status_code == 200
    body = response.json()
    assert body["variant"] == variant
    assert body["version"].startswith("onnxruntime-fp32-")
    assert body["trained"] is True
    probabilities = [prediction["probability"] for prediction in body["predictions"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert set(body["timings_ms"]) == {"queue", "decode", "infer"}


def test_all_classes_add_up_to_one_and_the_first_variant_is_the_default(client: TestClient) -> None:
    body = client.post("/classify?top_k=10", content=encoded()).json()
    assert body["variant"] == PAIR[0]
    assert sum(prediction["probability"] for prediction in body["predictions"]) == pytest.approx(1, abs=1e-5)
    assert sorted(prediction["index"] for prediction in body["predictions"]) == list(range(10))


def test_raw_and_multipart_bodies_get_the_same_answer(client: TestClient) -> None:
    raw = client.post("/classify", content=encoded(), headers={"content-type": "image/png"}).json()
    form = client.post("/classify", files={"image": ("any.png", encoded(), "image/png")}).json()
    assert raw["predictions"] == form["predictions"]


PNG = {"content-type": "image/png"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\ncontent-disposition: form-data; name="+2AA-"\r\n\r\nx\r\n--b--\r\n'
WRONG: list[tuple[str, int, str, dict[str, Any]]] = [
    ("/classify", 400, "empty_body", {"content": b"", "headers": PNG}),
    ("/classify", 400, "not_an_image", {"content": b"no image at all", "headers": PNG}),
    ("/classify", 400, "not_an_image", {"content": encoded()[:500], "headers": PNG}),
    ("/classify", 400, "not_an_image", {"content": encoded("JPEG")[:400], "headers": PNG}),
    (
        "/classify",
        400,
        "not_an_image",
        {"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "headers": PNG},
    ),
    ("/classify", 400, "not_an_image", {"content": encoded("ICO"), "headers": PNG}),
    ("/classify", 400, "no_image_field", {"files": {"picture": encoded()}}),
    ("/classify", 400, "no_image_field", {"data": {"image": "text"}, "files": {"other": b"x"}}),
    ("/classify", 400, "unknown_field", {"files": {"image": encoded()}, "data": {"top_k": "1"}}),
    ("/classify", 400, "too_many_files", {"files": [("image", encoded()), ("image", encoded())]}),
    ("/classify", 400, "malformed_multipart", {"content": b"nonsense without a boundary", "headers": FORM}),
    ("/classify", 400, "malformed_multipart", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
    *(
        (
            "/classify",
            400,
            "no_image_field",
            {"content": PART, "headers": {"content-type": f"{FORM['content-type']}; charset={name}"}},
        )
        for name in ("undefined", "utf-7", "punycode")
    ),
    ("/classify?top_k=0", 400, "bad_top_k", {"content": encoded()}),
    ("/classify?top_k=11", 400, "bad_top_k", {"content": encoded()}),
    ("/classify?top_k=1e3", 400, "bad_top_k", {"content": encoded()}),
    ("/classify?top_k=%C2%B2", 400, "bad_top_k", {"content": encoded()}),
    ("/classify?topk=3", 400, "unknown_parameter", {"content": encoded()}),
    ("/classify?variant=resnet18", 404, "unknown_variant", {"content": encoded()}),
    ("/classify", 413, "too_many_bytes", {"content": bytes(MAX_BYTES + 1), "headers": PNG}),
    ("/classify", 413, "too_many_bytes", {"content": iter([bytes(MAX_BYTES), b"x"]), "headers": PNG}),
    ("/classify", 413, "too_many_bytes", {"files": {"image": bytes(MAX_BYTES + 1)}}),
    ("/classify", 413, "too_many_bytes", {"files": {"image": bytes(MAX_BYTES + 100_000)}}),
    ("/classify", 413, "too_many_pixels", {"content": one_bit_png(1001, 1000), "headers": PNG}),
    ("/classify", 415, "unsupported_content_type", {"content": b"{}", "headers": {"content-type": "application/json"}}),
    *(
        (path, 415, "unsupported_content_encoding", {**sent, "headers": {"content-encoding": "gzip"}})
        for path, sent in (
            ("/classify", {"content": encoded()}),
            ("/explain", {"content": encoded()}),
            ("/classify/batch", {"files": {"images": encoded()}}),
        )
    ),
]


@pytest.mark.parametrize(("path", "status", "error", "request_"), WRONG, ids=[f"{w[1]}-{w[2]}" for w in WRONG])
def test_a_wrong_request_gets_a_json_object_that_explains(
    client: TestClient, openapi: dict[str, Any], path: str, status: int, error: str, request_: dict[str, Any]
) -> None:
    response = client.post(path, **request_)
    assert response.status_code == status
    body = ErrorAnswer.model_validate_json(response.text)
    assert body.error == error
    assert body.message
    assert str(status) in openapi["paths"][path.partition("?")[0]]["post"]["responses"]


def test_several_images_of_a_form_are_told_where_to_go(client: TestClient) -> None:
    body = client.post("/classify", files=[("image", encoded()), ("image", encoded())]).json()
    assert body["message"].endswith("; /classify/batch takes several, as files `images`")
    assert (body["found"], body["accepted"]) == ("more than 1", ["up to 1 of the name `image`"])


def test_a_form_is_read_in_no_encoding_that_a_client_names(client: TestClient) -> None:
    """Python's punycode takes the square of a field's length."""
    content = PART.replace(b"+2AA-", b"bcher-kva")
    answer = client.post(
        "/classify", content=content, headers={"content-type": f"{FORM['content-type']}; charset=punycode"}
    )
    assert answer.json()["found"] == "bcher-kva"


def test_an_unknown_variant_is_told_which_are_served(client: TestClient) -> None:
    body = client.post("/classify?variant=resnet18", content=encoded()).json()
    assert (body["found"], body["accepted"]) == ("resnet18", list(PAIR))


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", "/classify", "POST"), ("POST", "/variants", "GET, HEAD")]
)
def test_a_wrong_method_is_told_the_right_one(client: TestClient, method: str, path: str, allow: str) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/variants", "/metrics", "/docs.json", "/ui/", "/v2", "/v2/health/ready", "/readyz"])
def test_whatever_answers_get_answers_head(client: TestClient, path: str) -> None:
    asked, told = client.get(path), client.head(path)
    assert (told.status_code, told.headers["content-type"]) == (200, asked.headers["content-type"])


def test_a_full_service_answers_429_and_when_to_come_back(client: TestClient, opened: Opened) -> None:
    opened.in_flight = 64
    try:
        response = client.post("/classify", content=encoded())
    finally:
        opened.in_flight = 0
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    opened.receiving = 1024
    try:
        assert client.post("/classify", content=encoded()).status_code == 429
    finally:
        opened.receiving = 0
    assert client.post("/classify", content=encoded()).status_code == 200
    assert opened.in_flight == opened.receiving == 0


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1)])
def test_a_strip_of_any_length_is_classified_in_little_memory(client: TestClient, size: tuple[int, int]) -> None:
    response = client.post("/classify", content=one_bit_png(*size))
    assert response.status_code == 200


def test_what_fills_up_while_a_body_arrives_is_still_refused(opened: Opened) -> None:
    """The limit holds when requests pass the first look together and their bodies come later."""
    messages: list[Any] = []

    async def receive() -> dict[str, Any]:
        opened.in_flight = 64
        return {"type": "http.request", "body": encoded(), "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/classify", "query_string": b"", "headers": []}
    try:
        asyncio.run(HttpApi(PlainTextResponse(""), opened)(scope, receive, send))
    finally:
        opened.in_flight = 0
    assert messages[0]["status"] == 429
    assert opened.receiving == 0


def test_before_the_models_are_open_nothing_is_classified() -> None:
    client = TestClient(HttpApi(PlainTextResponse(""), Opened()))
    assert client.post("/classify", content=encoded()).status_code == 503


def test_no_request_is_left_to_bentoml(client: TestClient) -> None:
    shown = client.get("/metrics")
    assert "preflight_stage_seconds" in shown.text
    assert shown.headers["content-type"] == CONTENT_TYPE_LATEST
    assert shown.headers["x-request-id"]
    unknown = client.get("/static_content/index.css")
    assert (unknown.status_code, unknown.json()["found"]) == (404, "/static_content/index.css")
    assert {"/classify", "/metrics", "/v2", "/readyz"} < set(unknown.json()["accepted"])
    assert not any(path.startswith("/ui/") for path in unknown.json()["accepted"])
    assert client.post("/metrics").status_code == 405


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
def test_probes_are_answered_here(client: TestClient, path: str) -> None:
    """Who asks BentoML leaves something in memory until a deadline, and probes need no key."""
    assert (client.get(path).status_code, client.get(path).text) == (200, "\n")
    assert client.head(path).status_code == 200
    assert (client.post(path).status_code, client.post(path).headers["allow"]) == (405, "GET, HEAD")


def test_a_worker_without_models_lives_and_is_not_ready() -> None:
    client = TestClient(HttpApi(PlainTextResponse(""), Opened()))
    assert client.get("/livez").status_code == 200
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["error"]) == (503, "not_ready")


def test_variants_tell_what_is_served(client: TestClient) -> None:
    variants = client.get("/variants").json()["variants"]
    assert [variant["variant"] for variant in variants] == list(PAIR)
    assert [variant["default"] for variant in variants] == [True, False]
    assert {variant["ordering"] for variant in variants} == {"postact", "preact"}
    for variant in variants:
        assert variant["runtime"].startswith("onnxruntime ")
        assert len(variant["files"]["model.onnx"]) == 64
        assert variant["parity"]["top1_agreement"] == 1.0


def test_openapi_describes_the_routes_and_the_answers(client: TestClient, openapi: dict[str, Any]) -> None:
    ours = {"/classify", "/classify/batch", "/explain", "/variants", "/docs.json", "/ui/"}
    protocol = {path for path in openapi["paths"] if path.startswith("/v2")}
    assert openapi["paths"].keys() == ours | protocol | {"/readyz", "/livez", "/metrics"}
    post = openapi["paths"]["/classify"]["post"]
    assert [parameter["name"] for parameter in post["parameters"]] == [
        "variant",
        "top_k",
        "X-Client-Key",
        "X-Request-Timeout-Ms",
        "X-Request-Id",
    ]
    assert post["parameters"][0]["schema"]["enum"] == list(PAIR)
    assert post["requestBody"]["content"].keys() == {"image/*", "application/octet-stream", "multipart/form-data"}
    schemas = openapi["components"]["schemas"]
    assert schemas["Classification"]["properties"].keys() == client.post("/classify", content=encoded()).json().keys()
    assert schemas["Variant"]["properties"].keys() == client.get("/variants").json()["variants"][0].keys()
    names = {part["$ref"].rpartition("/")[2] for part in references(openapi)}
    assert names <= schemas.keys()


def references(node: Any) -> Iterator[dict[str, str]]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"]),
    spoil=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=12),
    keep=st.integers(1, 5000),
)
def test_a_spoiled_image_is_an_answer_or_a_client_error(
    client: TestClient, kind: str, spoil: list[tuple[int, int]], keep: int
) -> None:
    body = bytearray(encoded(kind))
    for place, value in spoil:
        body[place % len(body)] = value
    response = client.post("/classify", content=bytes(body[:keep]), headers=PNG)
    assert response.status_code in {200, 400, 413}
    assert isinstance(json.loads(response.text), dict)
