"""The search finds the rate that holds, however noisy its probes; a queue that grows is told from one that is full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadtests.capacity import HALVINGS, LONGER, Interrupted, curve, search
from loadtests.findings import Capacity, Probe
from loadtests.probing import Objective, growth
from loadtests.recording import Outcome

SLO_MS = 50.0


def probe_of(rate: float, seconds: float, p99_ms: float, holds: bool) -> Probe:
    answered = round(rate * seconds)
    return Probe(rate, seconds, answered, rate, p99_ms / 5, p99_ms / 2, p99_ms, 0.0, 0.1, holds, "" if holds else "p99")


def served_at_most(truth: float) -> Callable[[float, float], Probe]:
    return lambda rate, seconds: probe_of(rate, seconds, SLO_MS * rate / truth, rate <= truth)


def found(probe: Callable[[float, float], Probe], first_rate: float = 100.0, precision: float = 0.05) -> Capacity:
    return search(probe, SLO_MS, variant="a", first_rate=first_rate, precision=precision)


@given(
    truth=st.floats(1.0, 1e5),
    first=st.floats(1 / 64, 2.0**HALVINGS / 1.01),
    precision=st.sampled_from((0.01, 0.05, 0.2)),
)
def test_the_answer_encloses_the_truth_as_narrowly_as_was_asked_for(
    truth: float, first: float, precision: float
) -> None:
    capacity = found(served_at_most(truth), truth * first, precision)
    assert capacity.rate_rps is not None
    assert capacity.above_rps is not None
    assert capacity.rate_rps <= truth < capacity.above_rps <= capacity.rate_rps * (1 + precision)
    assert (capacity.limited_by, capacity.incomplete) == ("service", "")
    assert len(capacity.probes) < 25


def test_both_ends_of_the_answer_were_tried_again_for_longer() -> None:
    capacity = found(served_at_most(321.0))
    for rate in (capacity.rate_rps, capacity.above_rps):
        first, second = (probe.seconds for probe in capacity.probes if probe.rate_rps == rate)
        assert second == LONGER * first
    assert min(probe.answered for probe in capacity.probes) >= 400
    rates = [probe.rate_rps for probe in curve(capacity.probes)]
    assert rates == sorted(set(rates))
    assert len(rates) == len(capacity.probes) - 2


def noisy(truth: float, spread: float, seed: int) -> Callable[[float, float], Probe]:
    """p99 of a queue M/M/1, which holds the objective up to `truth`, with an error that shrinks as probes grow."""
    generator = np.random.default_rng(seed)
    saturated = truth + 1e3 * np.log(100) / SLO_MS  # p99 of M/M/1 is ln 100 / (saturated - rate)

    def probe(rate: float, seconds: float) -> Probe:
        p99_ms = 1e3 * np.log(100) / (saturated - rate) if rate < saturated else inf
        p99_ms *= generator.lognormal(0, spread / sqrt(seconds / 10))
        return probe_of(rate, seconds, p99_ms, p99_ms <= SLO_MS)

    return probe


def test_noisy_probes_find_the_truth_within_the_precision_in_nearly_all_searches() -> None:
    truth = 500.0
    rates = np.array([found(noisy(truth, 0.2, seed)).rate_rps for seed in range(200)], dtype=float)
    assert np.mean((truth / 1.06 < rates) & (rates < truth * 1.06)) >= 0.95
    assert np.median(rates) == pytest.approx(truth, rel=0.03)
    assert found(noisy(truth, 0.2, 1)) == found(noisy(truth, 0.2, 1))


@pytest.mark.parametrize("wrong", range(1, 8))
def test_one_short_probe_that_was_wrong_does_not_change_the_answer(wrong: int) -> None:
    """Whichever it is, a second look at the rates that decide brings the search back."""
    truthful, number = served_at_most(321.0), 0

    def once_wrong(rate: float, seconds: float) -> Probe:
        nonlocal number
        number += 1
        probe = truthful(rate, seconds)
        return replace(probe, holds=not probe.holds) if number == wrong else probe

    capacity = found(once_wrong)
    assert capacity.rate_rps is not None
    assert capacity.above_rps is not None
    assert capacity.rate_rps <= 321 < capacity.above_rps


def test_where_no_rate_holds_there_is_no_answer() -> None:
    capacity = found(served_at_most(1.0))
    assert capacity.rate_rps is None
    assert capacity.above_rps == 100 / 2**HALVINGS


def test_a_generator_that_is_late_is_told_from_a_service_that_is() -> None:
    truthful = served_at_most(1e6)

    def late_above_700(rate: float, seconds: float) -> Probe:
        probe = truthful(rate, seconds)
        return replace(probe, holds=False, invalid="the generator was late") if rate > 700 else probe

    capacity = found(late_above_700)
    assert capacity.limited_by == "generator"
    assert capacity.rate_rps == pytest.approx(700, rel=0.05)


def test_what_is_known_outlives_the_service_and_ctrl_c() -> None:
    truthful = served_at_most(321.0)

    def dying(rate: float, seconds: float) -> Probe:
        probe = truthful(rate, seconds)
        return replace(probe, holds=False, incomplete="it is gone") if rate > 200 else probe

    def interrupted(rate: float, seconds: float) -> Probe:
        if rate > 200:
            raise KeyboardInterrupt
        return truthful(rate, seconds)

    capacity = found(dying)
    assert (capacity.rate_rps, capacity.above_rps, capacity.incomplete) == (200, None, "it is gone")
    assert len(capacity.probes) == 3
    with pytest.raises(Interrupted) as caught:
        found(interrupted)
    assert caught.value.capacity.rate_rps == 200
    assert caught.value.capacity.incomplete == "interrupted after 2 probes"


def test_a_search_whose_time_is_up_begins_no_probe_and_tells_what_it_knows() -> None:
    capacity = search(served_at_most(321.0), SLO_MS, variant="a", first_rate=100.0, max_seconds=1e-9)
    assert (capacity.rate_rps, capacity.above_rps, len(capacity.probes)) == (100.0, None, 1)
    assert capacity.incomplete == "the time was up after 1 probe, before the answer was known"


def queue(load: float, seconds: float, seed: int, service_s: float = 0.005) -> list[Outcome]:
    """Of one server, M/G/1, by Lindley's recursion; its service times are log-normal with a mean of `service_s`."""
    generator = np.random.default_rng(seed)
    arrivals = int(seconds * load / service_s)
    due_s = np.sort(generator.uniform(0, seconds, arrivals))
    service = service_s * generator.lognormal(-0.125, 0.5, arrivals)
    return [Outcome(due, due, due + wait, 200) for due, wait in zip(due_s, sojourn(due_s, service), strict=True)]


def sojourn(due_s: NDArray[np.float64], service_s: NDArray[np.float64]) -> list[float]:
    free_s, found = 0.0, []
    for due, service in zip(due_s, service_s, strict=True):
        free_s = max(free_s, due) + service
        found.append(free_s - due)
    return found


@pytest.mark.parametrize(("load", "is_steady"), [(0.7, True), (0.85, True), (1.06, False), (1.2, False)])
def test_a_queue_just_above_saturation_is_told_from_one_below(load: float, is_steady: bool) -> None:
    said = [growth(queue(load, 10.0, seed), 10.0) <= Objective(SLO_MS).behind for seed in range(40)]
    assert np.mean(np.array(said) == is_steady) >= 0.95


def test_latency_grows_by_what_the_queue_is_offered_too_much() -> None:
    grown = [growth(queue(1.2, 10.0, seed), 10.0) for seed in range(20)]
    assert np.mean(grown) == pytest.approx(0.2, rel=0.1)
    assert growth([], 10.0) == 0.0
