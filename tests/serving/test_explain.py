"""`/explain`: what an image's class activation map says is what the variant answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from export.artifact import CLASS_MAPS_FILE, GRAPH_FILE, read_manifest, write_manifest
from export.store import register
from models.pixels import read_pixels
from models.spec import CIFAR_PREPROCESSING
from serving.http_api import HttpApi
from serving.metrics import metrics
from serving.opened import Opened
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening


@pytest.fixture(scope="module")
def opened(exported_pair: tuple[str, str]) -> Iterator[Opened]:
    with opening(exported_pair) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(opened: Opened) -> TestClient:
    return TestClient(HttpApi(PlainTextResponse("BentoML's own"), opened))


def explanation(client: TestClient, query: str, content: bytes) -> dict[str, Any]:
    answer = client.post(f"/explain?{query}", content=content)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("variant", PAIR)
def test_the_mean_of_every_map_is_the_logit_that_is_served(client: TestClient, photographs: Path, variant: str) -> None:
    content = (photographs / "chelsea.png").read_bytes()
    pixels = read_pixels(photographs / "chelsea.png", CIFAR_PREPROCESSING)
    tensor = {"name": "images", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": pixels.tolist()}
    (output,) = client.post(f"/v2/models/{variant}/infer", json={"inputs": [tensor]}).json()["outputs"]
    for index, logit in enumerate(output["data"]):
        found = explanation(client, f"variant={variant}&class={index}", content)
        assert (found["variant"], found["index"]) == (variant, index)
        assert np.mean(found["map"]) == pytest.approx(logit, abs=1e-4)
        assert found["logit"] == pytest.approx(logit, abs=1e-4)
        assert (found["minimum"], found["maximum"]) == (np.min(found["map"]), np.max(found["map"]))
        assert np.shape(found["map"]) == (8, 8)


@pytest.mark.parametrize("variant", PAIR)
def test_without_a_class_it_is_the_one_that_is_answered(client: TestClient, photographs: Path, variant: str) -> None:
    content = (photographs / "chelsea.png").read_bytes()
    answered = client.post(f"/classify?variant={variant}&top_k=3", content=content).json()
    found = explanation(client, f"variant={variant}&top_k=3", content)
    assert found["label"] == found["predictions"][0]["label"] == answered["predictions"][0]["label"] == "cat"
    for ours, theirs in zip(found["predictions"], answered["predictions"], strict=True):
        assert ours == theirs | {"probability": pytest.approx(theirs["probability"], abs=1e-5)}
    assert found["crop"] == 1.0


@pytest.mark.parametrize("variant", PAIR)
def test_the_map_is_the_class_activation_map_of_the_network(
    client: TestClient, photographs: Path, variant: str
) -> None:
    """Torch's own features by the head's weights, place by place; Zhou et al. 2016, equation 2, and the bias."""
    import torch
    from torch.nn.functional import relu

    network, features = trained(variant)
    pixels = read_pixels(photographs / "chelsea.png", CIFAR_PREPROCESSING)
    mean, std = (torch.tensor(each)[:, None, None] for each in (CIFAR_PREPROCESSING.mean, CIFAR_PREPROCESSING.std))
    with torch.inference_mode():
        network((torch.tensor(pixels).permute(2, 0, 1).float() / 255 - mean)[None] / std)
        (last,) = features
        last = last if network.norm is None else relu(network.norm(last))
        expected = torch.einsum("ck,khw->chw", network.fc.weight, last[0]) + network.fc.bias[:, None, None]
    for index in (3, 9):
        found = explanation(client, f"variant={variant}&class={index}", (photographs / "chelsea.png").read_bytes())
        assert np.array(found["map"]) == pytest.approx(expected[index].numpy(), abs=1e-3)


def trained(variant: str) -> tuple[Any, list[Any]]:
    """A shipped network in torch, and where the output of its last stage is kept."""
    from models.weights import read_checkpoint, zoo_path

    features: list[Any] = []
    network = read_checkpoint(zoo_path(variant)).network()
    network.layer3.register_forward_hook(lambda module, given, output: features.append(output))
    return network, features


def test_nothing_is_opened_before_somebody_asks_and_then_once(exported_pair: tuple[str, str]) -> None:
    with opening(exported_pair[:1]) as opened:
        explainer = opened.ready().served[PAIR[0]].explainer
        client = TestClient(HttpApi(PlainTextResponse(""), opened))
        client.post("/classify", content=encoded())
        assert "runner" not in vars(explainer)
        client.post("/explain", content=encoded())
        first = vars(explainer)["runner"]
        client.post("/explain", content=encoded())
        assert vars(explainer)["runner"] is first


@pytest.mark.parametrize(
    ("query", "content", "status", "error"),
    [
        ("class=10", encoded(), 400, "bad_class"),
        ("class=-1", encoded(), 400, "bad_class"),
        ("class=cat", encoded(), 400, "bad_class"),
        ("klass=1", encoded(), 400, "unknown_parameter"),
        ("variant=resnet18", encoded(), 404, "unknown_variant"),
        ("", b"no image", 400, "not_an_image"),
        ("", b"", 400, "empty_body"),
    ],
)
def test_a_wrong_request_is_told_what_would_be_right(
    client: TestClient, query: str, content: bytes, status: int, error: str
) -> None:
    answer = client.post(f"/explain?{query}", content=content)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_classify_takes_no_class(client: TestClient) -> None:
    assert client.post("/classify?class=1", content=encoded()).json()["error"] == "unknown_parameter"


def test_limits_and_deadlines_hold(client: TestClient, opened: Opened) -> None:
    opened.in_flight = opened.settings.max_in_flight
    try:
        assert client.post("/explain", content=encoded()).status_code == 429
    finally:
        opened.in_flight = 0
    late = client.post("/explain", content=encoded(), headers={"x-request-timeout-ms": "none"})
    assert late.json()["error"] == "bad_timeout"


def test_it_is_counted_as_a_route_and_a_stage_of_its_own(client: TestClient) -> None:
    metrics().publish(0, 0)
    client.post("/explain?variant=" + PAIR[0], content=encoded())
    assert metrics().counts[metrics().requests, ("/explain", 200)] == 1
    assert sum(metrics().tallies[PAIR[0], "explain"].counts) == 1
    infer = metrics().tallies.get((PAIR[0], "infer"))
    assert infer is None or sum(infer.counts) == 0


def test_an_artifact_from_before_class_maps_is_served_and_says_how_to_get_them(
    exported_pair: tuple[str, str], tmp_path: Path
) -> None:
    import bentoml

    tag = exported_pair[1]
    model = bentoml.models.get(tag)
    old = read_manifest(Path(model.path), str(model.tag.version))
    old = old.model_copy(update={"class_maps": None, "files": {GRAPH_FILE: old.files[GRAPH_FILE]}})
    shutil.copy(Path(model.path) / GRAPH_FILE, tmp_path)
    write_manifest(tmp_path, old)
    before = register(tmp_path, old)
    try:
        with opening((before,)) as opened:
            client = TestClient(HttpApi(PlainTextResponse(""), opened))
            assert client.post("/classify", content=encoded()).status_code == 200
            answer = client.post("/explain", content=encoded())
            assert (answer.status_code, answer.json()["error"]) == (404, "no_heat_map")
            assert "python -m export resnet20-preact" in answer.json()["message"]
            assert not (Path(bentoml.models.get(before).path) / CLASS_MAPS_FILE).exists()
    finally:
        bentoml.models.delete(before)
        register(Path(model.path), read_manifest(Path(model.path), str(model.tag.version)))
