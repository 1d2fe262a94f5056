"""A request that is alone has the cores of all threads, where that pays; its answer is the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving import classifier, cores
from serving.classifier import Served
from serving.config import Settings
from serving.http_api import HttpApi
from serving.opened import Opened
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whom the service tried to spread; all of them pay here, on two cores, whatever this machine is."""
    found: list[Any] = []
    monkeypatch.setattr(cores, "cores", lambda: 2.0)
    monkeypatch.setattr(classifier, "is_long", lambda narrow, crop: True)
    monkeypatch.setattr(classifier, "worth_spreading", lambda narrow, spread, crop: found.append(spread) or True)
    return found


@pytest.fixture
def opened(exported_pair: tuple[str, str], asked: list[Any]) -> Iterator[Opened]:
    assert not asked
    with opening(exported_pair[1:]) as opened:
        yield opened


def served(opened: Opened) -> Served:
    return opened.ready().served[PAIR[1]]


def counted(inference: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    infer = inference.infer
    monkeypatch.setattr(inference, "infer", lambda images: found.append(len(images)) or infer(images))
    return found


@pytest.mark.parametrize("route", ["/classify", "/explain"])
def test_it_answers_as_on_one_core(route: str, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(HttpApi(PlainTextResponse(""), opened))
    lane: Any = served(opened).lane if route == "/classify" else served(opened).explainer.lane
    narrow, spread = counted(lane.runner, monkeypatch), counted(lane.spread, monkeypatch)
    found = [client.post(route, content=encoded()).json()["predictions"]]
    monkeypatch.setattr(opened.ready().threads, "others_rest", lambda: False)
    found += [client.post(route, content=encoded()).json()["predictions"]]
    assert (spread, narrow) == ([1], [1])
    for alone, beside in zip(*found, strict=True):
        assert alone == beside | {"probability": pytest.approx(beside["probability"], abs=2e-6)}


@pytest.mark.parametrize(
    ("usable", "settings", "threads"),
    [
        (2, {}, 2),
        (8, {}, 2),
        (8, {"workers": 1}, 8),
        (1, {}, 1),
        (2, {"threads": 16}, 2),
        (8, {"workers": 1, "threads": 3}, 3),
        (8, {"workers": 1, "intra_op_threads": 4}, 1),
    ],
)
def test_a_worker_has_its_share_of_the_cores(
    usable: float, settings: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "cores", lambda: usable)
    assert Settings.model_validate({"runtime": "onnxruntime"} | settings).spread_over == threads


@pytest.mark.parametrize(
    "settings", [{"threads": 1}, {"intra_op_threads": 1}, {"intra_op_threads": 2}, {"batching": "on"}]
)
def test_whoever_asks_for_something_else_has_it(
    settings: dict[str, Any], exported_pair: tuple[str, str], asked: list[Any]
) -> None:
    with opening(exported_pair[1:], **settings):
        assert not asked


def test_a_short_inference_is_not_even_tried(
    exported_pair: tuple[str, str], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "is_long", lambda narrow, crop: False)
    with opening(exported_pair[1:]):
        assert not asked


def test_what_gains_nothing_is_closed_again(
    exported_pair: tuple[str, str], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "worth_spreading", lambda narrow, spread, crop: bool(asked.append(spread)))
    with opening(exported_pair[1:]) as opened:
        assert served(opened).lane.spread is None  # type: ignore[attr-defined]  # what a CPU has is of this kind
        assert not hasattr(asked[0], "session")


def test_the_log_says_so(exported_pair: tuple[str, str], asked: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bentoml.serve"), opening(exported_pair[1:]):
        assert f"{PAIR[1]}: a request that comes alone is inferred on 2 threads" in caplog.text
    assert len(asked) == 1
