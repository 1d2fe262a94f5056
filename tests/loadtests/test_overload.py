"""The account of an overload adds up, and a real service is overloaded."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from loadtests.local_service import LocalService
from loadtests.overload import NORMAL, back_to_normal, main
from loadtests.recording import Outcome
from tests.serving.test_http_api import encoded


def outcomes(latencies: list[float], every_s: float = 0.1) -> list[Outcome]:
    return [
        Outcome(due, due, due + latency, 200)
        for due, latency in zip(itertools.count(0, every_s), latencies, strict=False)
    ]


def test_it_is_normal_again_from_two_windows_in_a_row_that_are() -> None:
    usual = 0.01
    assert back_to_normal(outcomes([usual] * 50), NORMAL * usual) == 0.0
    assert back_to_normal(outcomes([0.5] * 8 + [usual] * 42), NORMAL * usual) == pytest.approx(1.0)
    assert back_to_normal(outcomes([0.5] * 8 + [usual] * 7 + [0.5] * 5), NORMAL * usual) is None
    assert back_to_normal(outcomes([usual] * 20 + [0.5] * 5 + [usual] * 25), NORMAL * usual) == 0.0
    assert back_to_normal(outcomes([0.5] * 50), NORMAL * usual) is None


def test_a_short_overload_of_the_real_service_is_answered_whole(
    service: LocalService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(encoded("JPEG"))
    arguments = ["--url", f"{service.url}/classify", "--image", str(picture), "--out", str(tmp_path / "out.json")]
    assert main([*arguments, "--times", "3", "--seconds", "1", "--capacity-seconds", "1", "--gentle-seconds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "none came: 0, not within 5000 ms: 0" in printed
    assert "'200': " in printed
