"""A difference is said where there is one, none where there is none, and nothing where nothing can be said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from loadtests import bootstrap
from loadtests.differences import (
    HIGHER,
    LOWER,
    NONE_SHOWN,
    change,
    compare,
    control,
    rounds_of,
    says,
    trimmed,
    unscaled,
)
from loadtests.findings import Comparison, Difference
from loadtests.metrics import FEWEST_ROUNDS, LEVEL, over_rounds, value
from loadtests.results import Side, Turn
from loadtests.stopping import enough
from tests.loadtests.rounds import compared, turn


def primary(comparison: Comparison, metric: str = "p50_ms") -> Difference:
    return next(each for each in comparison.differences if each.metric == metric)


def said(turns: Sequence[Turn], metric: str = "p50_ms") -> str:
    return says(change(metric, rounds_of(turns), LEVEL), metric)


@pytest.mark.parametrize(("factor", "expected"), [(1.2, HIGHER), (0.8, LOWER), (1.0, NONE_SHOWN)])
def test_the_change_is_told_with_its_direction(factor: float, expected: str) -> None:
    found = primary(compare(compared(12, factor)))
    assert found.change is not None
    assert found.change.low <= factor <= found.change.high
    assert found.change.estimate == pytest.approx(factor, rel=0.03)
    assert found.says == expected
    assert found.b == pytest.approx(10 * factor, rel=0.03)


def test_of_identical_sides_none_is_said_to_differ_and_of_different_ones_almost_all() -> None:
    """What `change` resamples are the rounds' logarithmic ratios, drawn here with a standard deviation of 3 %."""

    def answers(rounds: int, factor: float) -> list[str]:
        generator = np.random.default_rng(0)
        drawn = [generator.normal(np.log(factor), 0.03, rounds) for _ in range(40)]
        return [says(unscaled("p50_ms", bootstrap.interval([each], trimmed, LEVEL)), "p50_ms") for each in drawn]

    assert answers(10, 1.0).count(NONE_SHOWN) >= 38
    assert answers(16, 1.05).count(HIGHER) >= 36
    assert answers(16, 0.95).count(LOWER) >= 36


def test_one_disturbed_round_hides_no_difference() -> None:
    turns = compared(20, 1.1)
    turns[3] = turn(0, 3, Side.A, [80.0] * 40)
    assert said(turns) == HIGHER


def test_drift_over_the_run_and_within_rounds_is_no_difference_and_widens_the_control() -> None:
    def slower_and_slower(number: int, place: int) -> float:
        return float(1.02 ** (4 * number + place))

    rounds = rounds_of(compared(12, noise=0.001, drift=slower_and_slower))
    assert change("p50_ms", rounds, LEVEL).estimate == pytest.approx(1, abs=0.005)
    drifted, steady = (control("p50_ms", each, LEVEL) for each in (rounds, rounds_of(compared(12, noise=0.001))))
    assert drifted is not None
    assert steady is not None
    assert drifted.low < 1 < drifted.high
    assert drifted.high - drifted.low > 5 * (steady.high - steady.low)


def test_the_control_is_as_wide_as_the_change_and_does_not_see_it() -> None:
    rounds = rounds_of(compared(40, 1.5))
    found, own = change("p50_ms", rounds, LEVEL), control("p50_ms", rounds, LEVEL)
    assert own is not None
    assert own.low < 1 < own.high
    assert (own.high / own.low - 1) == pytest.approx(found.high / found.low - 1, rel=0.5)


def test_failures_and_throughput_are_compared_as_well() -> None:
    turns = [
        turn(number, place, side, [10.0] * (99 if side is Side.B else 100), failed=int(side is Side.B))
        for number in range(10)
        for place, side in enumerate((Side.A, Side.B, Side.B, Side.A))
    ]
    comparison = compare(turns)
    failures, throughput = primary(comparison, "failure_rate"), primary(comparison, "throughput_rps")
    assert failures.says == HIGHER
    assert failures.change is not None
    assert failures.change.estimate == pytest.approx(0.01)
    assert throughput.change is not None
    assert throughput.change.estimate == pytest.approx(0.99)
    assert (throughput.a, throughput.b) == (100, 99)
    assert throughput.says == LOWER


def test_what_cannot_be_said_is_said_with_the_numbers_found() -> None:
    assert primary(compare(compared(9))).says.startswith(f"9 whole rounds, at least {FEWEST_ROUNDS} are needed: ")
    assert primary(compare(compared(1))).says.startswith("1 whole round, ")
    assert primary(compare([])).says.startswith("0 whole rounds")
    scarce = primary(compare(compared(10)), "p99_ms")
    assert scarce.says.startswith("side a answered 16 requests in round 0, p99_ms needs at least 100")
    assert scarce.change is None
    assert "needs at least 1,000" in primary(compare(compared(10)), "p999_ms").says
    turns = [replace(each, invalid="sent 9 ms late") if each.round == 3 else each for each in compared(10)]
    assert primary(compare(turns)).says == "4 of 40 turns had not the load that was planned: sent 9 ms late"


def test_latencies_of_a_side_that_fails_are_not_judged_but_its_failures_are() -> None:
    turns = [
        turn(number, place, side, [10.0] * 49, failed=2 * (side is Side.B))
        for number in range(10)
        for place, side in enumerate((Side.A, Side.B, Side.B, Side.A))
    ]
    comparison = compare(turns)
    assert primary(comparison).says == "40 requests of side b failed, 3.9%, 40 of them by 503; at most 1% may"
    assert primary(comparison).change is not None
    assert primary(comparison, "failure_rate").says == HIGHER


def test_a_side_that_answers_nothing_leaves_only_its_failures_to_compare() -> None:
    turns = [
        turn(number, place, side, [] if side is Side.B else [10.0] * 5, failed=5 * (side is Side.B))
        for number in range(10)
        for place, side in enumerate((Side.A, Side.B, Side.B, Side.A))
    ]
    comparison = compare(turns)
    assert primary(comparison).b is None
    told = "100 requests of side b failed, 100.0%, 100 of them by 503; at most 1% may"
    assert primary(comparison, "throughput_rps").says == told
    assert primary(comparison, "failure_rate").says == HIGHER


def test_a_round_that_was_cut_short_is_left_out_whole() -> None:
    turns = compared(11)
    assert len(rounds_of(turns[:-1])) == 10
    cut = replace(turns[-1], incomplete="the service died")
    assert len(rounds_of([*turns[:-1], cut])) == 10
    assert primary(compare([*turns[:-1], cut])) == primary(compare(turns[:-4]))


def test_the_same_turns_give_the_same_interval_in_any_order() -> None:
    turns = compared(10)
    assert compare(turns) == compare(turns[::-1])


def test_few_values_get_a_wider_interval_than_the_plain_percentiles() -> None:
    values = np.random.default_rng(0).normal(size=10)
    found = bootstrap.interval([values], trimmed, 0.95)
    resampled = trimmed(np.random.default_rng(1).choice(values, (20_000, 10)))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert found.high - found.low > 1.1 * (high - low)
    assert found.estimate == pytest.approx(np.sort(values)[2:8].mean())


@pytest.mark.parametrize("metric", ["p50_ms", "p90_ms", "p99_ms", "throughput_rps", "failure_rate"])
def test_over_all_rounds_the_estimate_is_that_of_all_requests(metric: str) -> None:
    generator = np.random.default_rng(0)
    rounds = [[turn(number, 0, Side.A, generator.lognormal(2, 1, 50), failed=number % 2)] for number in range(10)]
    found = over_rounds(metric, rounds, LEVEL)
    assert found.estimate == pytest.approx(value(metric, [each[0] for each in rounds]))
    assert found.low < found.estimate < found.high or metric == "throughput_rps"


def test_a_stall_in_one_round_reaches_the_p99_of_all() -> None:
    rounds = [[turn(number, 0, Side.A, [10.0] * 90 + [500.0 if number == 4 else 10.0] * 30)] for number in range(10)]
    found = over_rounds("p99_ms", rounds, LEVEL)
    assert found.low < 11
    assert found.high == pytest.approx(500, rel=0.01)


def test_no_failure_in_few_requests_is_no_proof_of_none() -> None:
    found = over_rounds("failure_rate", [[turn(number, 0, Side.A, [10.0] * 10)] for number in range(10)], LEVEL)
    assert found.estimate == found.low == 0
    assert found.high == pytest.approx(1 - 0.005 ** (1 / 100))  # exact binomial, none of 100


def test_rounds_are_enough_when_the_interval_is_narrow_whatever_it_holds() -> None:
    assert enough(compared(12, noise=0.005), within_percent=1.0)
    assert enough(compared(12, 1.3, noise=0.005), within_percent=1.0)
    assert not enough(compared(12, noise=0.05), within_percent=1.0)
    assert not enough(compared(12, 1.5, noise=0.05), within_percent=1.0)
    assert not enough(compared(9, noise=0.0), fewest_rounds=5)
    assert not enough(compared(12, noise=0.0), fewest_rounds=13)
    assert not enough(compared(12, noise=0.0), primary="p99_ms")
