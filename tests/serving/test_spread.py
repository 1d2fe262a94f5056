"""A request that is alone has the cores of all threads, where that pays; its answer is the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving import classifier, cores
from serving.classifier import Served
from serving.config import Settings
from serving.http_api import HttpApi
from serving.opened import Opened
from serving.runners.base import Inference
from serving.spread import LONG_S, Spread, seconds_alone
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Spread]:
    """What the service spread; it pays here, on two cores, whatever this machine is."""
    found: list[Spread] = []

    def spread(narrow: Inference, wide: Inference, narrow_s: float) -> Spread:
        found.append(Spread(narrow, wide, max(narrow_s, LONG_S)))
        return found[-1]

    monkeypatch.setattr(cores, "cores", lambda: 2.0)
    monkeypatch.setattr(classifier, "Spread", spread)
    return found


@pytest.fixture
def opened(exported_pair: tuple[str, str], asked: list[Spread]) -> Iterator[Opened]:
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
    narrow, spread = counted(lane.runner, monkeypatch), counted(lane.spread.ways[1], monkeypatch)
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
    settings: dict[str, Any], exported_pair: tuple[str, str], asked: list[Spread]
) -> None:
    with opening(exported_pair[1:], **settings):
        assert not asked


def test_the_log_says_what_was_found(
    exported_pair: tuple[str, str], asked: list[Spread], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(classifier, "seconds_alone", lambda narrow, crop: 0.0123)
    with caplog.at_level(logging.INFO, "bentoml.serve"), opening(exported_pair[1:]):
        assert len(asked) == 1
    expected = "an image takes 12.3 ms on one core; who comes alone has 2 while they are quicker"
    assert f"{PAIR[1]}: {expected}" in caplog.text


class Lasting:
    """Takes so long for whatever it is given, and counts what it was."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.count = seconds, 0

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.count += 1
        time.sleep(self.seconds)
        return np.zeros((len(images), 1), np.float32)


IMAGE = np.zeros((1, 2, 2, 3), np.uint8)


def gone(spread: Spread, images: int) -> list[int]:
    """How often each way was, for so many images one after the other."""
    ways: Any = spread.ways
    before = [way.count for way in ways]
    for _ in range(images):
        spread.infer(IMAGE)
    return [way.count - count for way, count in zip(ways, before, strict=True)]


@pytest.mark.parametrize(("wide_s", "way"), [(0.001, 1), (0.04, 0)])
def test_the_quicker_way_is_gone_once_it_shows(wide_s: float, way: int) -> None:
    spread = Spread(Lasting(0.01), Lasting(wide_s), 0.01)
    gone(spread, 20)
    assert gone(spread, 5)[way] == 5


def test_what_becomes_slow_is_left_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where others come to use the cores, and go."""
    monkeypatch.setattr("serving.spread.AGAIN", 20)
    wide = Lasting(0.001)
    spread = Spread(Lasting(0.01), wide, 0.01)
    assert gone(spread, 5) == [0, 5]
    wide.seconds = 0.1
    assert gone(spread, 10)[1] < 10
    assert gone(spread, 1) == [1, 0]
    wide.seconds = 0.001
    gone(spread, 2 * 20)
    assert gone(spread, 1) == [0, 1]


def test_several_images_teach_nothing_of_one() -> None:
    spread = Spread(Lasting(0.01), Lasting(0.001), 0.01)
    spread.infer(np.zeros((2, 2, 2, 3), np.uint8))
    assert spread.least_s == [0.01, 0.0]


def test_threads_are_not_woken_for_what_is_short() -> None:
    """But those that wait awake are asked."""
    spread = Spread(Lasting(0.002), Lasting(0.0), 0.002)
    assert gone(spread, 1) == [1, 0]
    spread.within_s += 60.0
    assert gone(spread, 1) == [0, 1]
    spread.ended_s -= 61.0
    assert gone(spread, 1) == [1, 0]


def test_what_an_image_takes_is_measured() -> None:
    assert 0.02 <= seconds_alone(Lasting(0.02), 2) < 1.0
