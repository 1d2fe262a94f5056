"""How sure a difference between two networks is: on the same images, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, quantile_test, ttest_1samp

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def leaves_out_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two networks on the same `n` images: how many only the first has right, and how many only the second.

    `difference` is the second's accuracy minus the first's, `p_value` two-sided and exact.
    """

    only_first: int
    only_second: int
    n: int
    p_value: float
    difference: Interval


def mcnemar(first_correct: NDArray[np.bool_], second_correct: NDArray[np.bool_]) -> McNemar:
    """Exact test of McNemar 1947 with the interval of Bonett and Price 2012, which keeps its coverage at any n.

    Both arrays are [N], one entry an image, in the same order.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    n = len(first_correct)
    discordant = only_first + only_second
    p_value = float(binomtest(only_second, discordant).pvalue) if discordant else 1.0
    low_share, high_share = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = high_share - low_share
    half = norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((low_share + high_share - centre**2) / (n + 2))
    estimate = (only_second - only_first) / n
    return McNemar(only_first, only_second, n, p_value, Interval(estimate, float(centre - half), float(centre + half)))


def share(correct: int, n: int) -> Interval:
    """A share of `n` with the interval of Wilson 1927."""
    found = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(correct / n, float(found.low), float(found.high))


def mean_difference(differences: Sequence[float]) -> Interval | None:
    """Student's interval on the mean of differences, one a seed; None for fewer than two."""
    if len(differences) < 2:
        return None
    mean = float(np.mean(differences))
    if len(set(differences)) == 1:  # no spread to judge by; scipy would warn of the loss of precision
        return Interval(mean, mean, mean)
    found = ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)
    return Interval(mean, float(found.low), float(found.high))


def median_interval(values: NDArray[np.float64]) -> Interval:
    """The median with its interval by order statistics (the sign test); at least 6 values."""
    median = float(np.median(values))
    found = quantile_test(values, q=median, p=0.5).confidence_interval(CONFIDENCE)
    return Interval(median, float(found.low), float(found.high))
