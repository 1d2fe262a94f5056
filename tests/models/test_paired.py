"""Intervals that hold what they promise, and the exact test."""

from __future__ import annotations

import numpy as np
import pytest

from models.paired import mcnemar, mean_difference, share


def table(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


def test_mcnemar_on_a_published_table() -> None:
    """Agresti 2013, table 11.1, approval asked twice: the difference is -0.04, its interval -0.06 to -0.02."""
    found = mcnemar(*table(794, 150, 86, 570))
    assert (found.only_first, found.only_second, found.n) == (150, 86, 1600)
    assert found.p_value == pytest.approx(3.7e-5, rel=0.05)
    assert found.difference.estimate == -0.04
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.0587, -0.0212), abs=3e-4)


def test_two_equal_networks_differ_in_nothing() -> None:
    found = mcnemar(*table(90, 0, 0, 10))
    assert found.p_value == 1
    assert found.difference.estimate == 0
    assert not found.difference.leaves_out_zero


@pytest.mark.parametrize("n", [60, 1000])
def test_the_interval_covers_the_true_difference_19_times_of_20(n: int) -> None:
    generator = np.random.default_rng(0)
    shares = (0.80, 0.08, 0.05, 0.07)
    covered = 0
    for counts in generator.multinomial(n, shares, size=2000):
        interval = mcnemar(*table(*counts)).difference
        covered += interval.low <= 0.05 - 0.08 <= interval.high
    assert 0.935 < covered / 2000 < 0.975


def test_a_share_of_everything_still_has_an_interval() -> None:
    assert share(10, 10).high == 1
    assert share(10, 10).low == pytest.approx(0.7225, abs=1e-3)  # Wilson: 1 / (1 + 1.96^2 / 10)


def test_three_seeds_make_a_wide_interval() -> None:
    """Student with two degrees of freedom: 4.303 standard errors."""
    found = mean_difference([0.1, 0.2, 0.6])
    assert found is not None
    half = 4.303 * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), rel=1e-3)
    assert not found.leaves_out_zero
    assert mean_difference([0.1]) is None
    constant = mean_difference([1, 1, 1])
    assert constant is not None
    assert constant.low == constant.high == 1
