"""The benchmark of the load tests: its known answers are right, its verdicts follow, and what was measured is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtests.differences import HIGHER, LOWER, NONE_SHOWN
from loadtests.findings import Outcome
from loadtests.load import Load
from loadtests.recording import Recording
from loadtests.trust_bench import __main__ as bench
from loadtests.trust_bench import comparisons, percentiles
from loadtests.trust_bench.capacity import held_rps, waits_s
from loadtests.trust_bench.measure import Measure, decided


def test_the_simulated_queue_waits_as_long_as_the_theory_says() -> None:
    """M/D/1: load times delay, by twice what is free (Pollaczek and Khinchin)."""
    assert waits_s(80, 1, 0.01).mean() == pytest.approx(0.8 * 0.01 / (2 * 0.2), rel=0.03)
    assert waits_s(80, 2, 0.02).mean() < waits_s(80, 1, 0.01).mean()  # half as fast, twice as many
    assert held_rps(4, 0.02, 0.1) < held_rps(4, 0.02, 0.5) < 4 / 0.02


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ({NONE_SHOWN: 38, HIGHER: 2}, Outcome.HOLDS),
        ({NONE_SHOWN: 37, HIGHER: 1, LOWER: 2}, Outcome.FAILS),
        ({NONE_SHOWN: 37, HIGHER: 1, "the generator was late": 2}, Outcome.UNDECIDED),
        ({NONE_SHOWN: 10}, Outcome.UNDECIDED),
        ({HIGHER: 3}, Outcome.FAILS),
    ],
)
def test_comparisons_that_could_say_nothing_leave_it_open(told: dict[str, int], outcome: Outcome) -> None:
    assert comparisons.measure("A/A", Counter(told), NONE_SHOWN, 38).outcome is outcome


def test_a_load_that_was_not_as_planned_decides_nothing() -> None:
    assert decided(True, Load(1.0, Recording())) is Outcome.HOLDS
    assert decided(False, Load(1.0, Recording())) is Outcome.FAILS
    assert decided(True, Load(1.0, Recording(), invalid="late")) is Outcome.UNDECIDED


def test_a_measure_counts_the_requests_that_the_server_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentiles, "TURN_S", 0.3)
    monkeypatch.setattr(percentiles, "WARM_UP_S", 0.1)
    monkeypatch.setattr(percentiles, "DELAYS", ("constant:10",))
    for measure in percentiles.measures():
        assert measure.found["requests"] == measure.found["injected"]["count"] > 0
        assert measure.found["measured"]["p50_ms"] >= measure.found["injected"]["p50_ms"] * 0.999


def measures_of(*outcomes: Outcome, error: BaseException | None = None) -> Callable[[], Iterator[Measure]]:
    def measures() -> Iterator[Measure]:
        for outcome in outcomes:
            yield Measure(str(outcome), "a claim", "a finding", {}, outcome)
        if error is not None:
            raise error

    return measures


@pytest.mark.parametrize(
    ("measures", "status"),
    [
        (measures_of(Outcome.HOLDS), 0),
        (measures_of(Outcome.HOLDS, Outcome.UNDECIDED), 3),
        (measures_of(Outcome.FAILS, Outcome.UNDECIDED, Outcome.HOLDS), 1),
        (measures_of(Outcome.HOLDS, error=KeyboardInterrupt()), 130),
    ],
)
def test_the_exit_status_says_what_came_of_it_and_the_figures_are_kept(
    measures: Callable[[], Iterator[Measure]], status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "GROUPS", {"stall": (1.0, measures)})
    path = tmp_path / "bench" / "trust.json"
    assert bench.main(["--only", "stall", "--out", str(path)]) == status
    found = json.loads(path.read_text())
    assert "holds" in {measure["outcome"] for measure in found["measures"]}
    assert found["conditions"]["machine"]
