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
from serving.spread import LONG_S
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whom the service tried to spread; all of them pay here, on two cores, whatever this machine is."""
    found: list[Any] = []
    monkeypatch.setattr(cores, "cores", lambda: 2.0)
    monkeypatch.setattr(classifier, "seconds_alone", lambda narrow, crop: LONG_S)
    monkeypatch.setattr(classifier, "gain_of", lambda spread, narrow, crop: found.append(spread) or 1.8)
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


def test_it_answers_as_on_one_core(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(HttpApi(PlainTextResponse(""), opened))
    lane: Any = served(opened).lane
    narrow, spread = counted(lane.runner, monkeypatch), counted(lane.spread, monkeypatch)
    found = [client.post("/classify", content=encoded()).json()["predictions"]]
    monkeypatch.setattr(opened.ready().threads, "others_rest", lambda: False)
    found += [client.post("/classify", content=encoded()).json()["predictions"]]
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
    monkeypatch.setattr(classifier, "seconds_alone", lambda narrow, crop: LONG_S / 2)
    with opening(exported_pair[1:]):
        assert not asked


def test_what_gains_nothing_is_closed_again(
    exported_pair: tuple[str, str], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "gain_of", lambda spread, narrow, crop: asked.append(spread) or 1.1)
    with opening(exported_pair[1:]) as opened:
        assert served(opened).lane.spread is None  # type: ignore[attr-defined]  # what a CPU has is of this kind
        assert not hasattr(asked[0], "session")


@pytest.mark.parametrize(("gain", "where"), [(1.8, "all of them"), (1.1, "one core like others")])
def test_the_log_says_what_was_found(
    gain: float, where: str, exported_pair: tuple[str, str], asked: list[Any], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(classifier, "gain_of", lambda spread, narrow, crop: gain)
    with caplog.at_level(logging.INFO, "bentoml.serve"), opening(exported_pair[1:]):
        found = f"2 threads are {gain:.2f} times as fast as one"
        assert f"{PAIR[1]}: a request that comes alone is inferred on {where}: {found}" in caplog.text
    assert not asked
