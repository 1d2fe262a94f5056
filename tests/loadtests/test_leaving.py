"""What a service that leaves is held to, by a real one, and what would not pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import leaving
from loadtests.leaving import failures, main, others, workers
from loadtests.recording import Outcome


def test_a_real_service_loses_nothing_and_replaces_who_is_killed(
    exported_pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVING_MODELS", exported_pair[0])
    assert main(["--runs", "1", "--users", "4", "--out", str(tmp_path / "leaving.json")]) == 0
    result = json.loads((tmp_path / "leaving.json").read_text())
    ((stopped,), (killed,)) = result["asked_to_stop"], result["worker_killed"]
    assert stopped["answered"] == stopped["given_by_the_service"] > 0
    assert stopped["left_unanswered"] == 0
    assert sum(killed["failed_by"].values()) <= killed["connections_held"] <= 4
    assert killed["replaced_after_s"] is not None
    said = capsys.readouterr().out
    assert said.count(": holds") == 2
    assert "SIGKILL of one of two workers: answered " in said


def test_a_service_that_loses_answers_does_not_pass(
    exported_pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the place of being asked to stop."""
    monkeypatch.setenv("SERVING_MODELS", exported_pair[0])
    monkeypatch.setattr(leaving.psutil.Process, "terminate", lambda service: workers(service.pid)[0].kill())
    monkeypatch.setattr(leaving, "LEAVES_WITHIN_S", 1.0)
    monkeypatch.setattr(leaving, "worker_killed", lambda users: {"event": "none", "holds": True})
    assert main(["--runs", "1", "--users", "4", "--out", str(tmp_path / "leaving.json")]) == 1


def test_outcomes_are_told_apart() -> None:
    outcomes = [Outcome(0, 0, 1, status, problem) for status, problem in ((200, ""), (503, "x"), (0, "no answer"))]
    assert failures(outcomes) == {"no answer": 1}
    assert others(outcomes) == {"503": 1}
