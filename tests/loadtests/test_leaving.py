"""What a service that leaves is held to, by a real one, and what would not pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import leaving
from loadtests.leaving import after_kill, after_stop, main
from loadtests.recording import Outcome


def test_a_real_service_loses_nothing_and_replaces_who_is_killed(
    exported_pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVING_MODELS", exported_pair[0])
    for limit in ("REPLACED_WITHIN_S", "LEAVES_WITHIN_S"):  # how soon is for the command to judge, on an idle machine
        monkeypatch.setattr(leaving, limit, 120.0)
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


def outcomes_of(*statuses: int) -> list[Outcome]:
    """0 is a request that got no answer."""
    return [Outcome(0, 0, 1, status, "" if status == 200 else "no answer") for status in statuses]


CLOSED = "closed; answered {} requests in all, {} left"


@pytest.mark.parametrize(
    ("log", "statuses", "holds"),
    [
        (CLOSED.format(2, 0), (200, 200), True),
        (CLOSED.format(1, 0) + "\n" + CLOSED.format(1, 0), (200, 200, 0), True),  # two workers; gone, and asked again
        (CLOSED.format(3, 0), (200, 200, 0), False),  # an answer was lost
        (CLOSED.format(2, 1), (200, 200), False),
        (CLOSED.format(2, 0), (200, 200, 503), False),
        ("", (), False),  # killed
    ],
)
def test_who_stops_has_to_have_delivered_what_was_answered(log: str, statuses: tuple[int, ...], holds: bool) -> None:
    assert after_stop(log, outcomes_of(*statuses))["holds"] is holds


@pytest.mark.parametrize(
    ("statuses", "connections", "replaced_after_s", "holds"),
    [
        ((200, 0, 0), 2, 4.0, True),
        ((200, 0, 0), 1, 4.0, False),
        ((200, 0), 2, None, False),
        ((200, 503), 2, 4.0, False),
    ],
)
def test_who_is_killed_may_take_along_what_it_held_alone(
    statuses: tuple[int, ...], connections: int, replaced_after_s: float | None, holds: bool
) -> None:
    assert after_kill(outcomes_of(*statuses), connections, replaced_after_s)["holds"] is holds


def test_what_does_not_hold_is_told_by_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("asked_to_stop", "worker_killed"):
        monkeypatch.setattr(leaving, name, lambda users: {"event": "none", "holds": users < 16})
    chosen = ["--runs", "1", "--out", str(tmp_path / "leaving.json")]
    assert main([*chosen, "--users", "15"]) == 0
    assert main(chosen) == 1
