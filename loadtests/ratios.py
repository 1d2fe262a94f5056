"""Ratios of benchmarks that are paired by round: their median with an exact interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import quantile_test

FEWEST_ROUNDS = 6  # with fewer, no order statistics enclose the median with 95 % confidence


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median over rounds of what relates lanes, with its 95 % interval by order statistics (the sign test)."""

    median: float
    low: float
    high: float


def median_over(values: NDArray[np.float64]) -> Ratio | None:
    """One value a round; None where too few are finite."""
    values = values[np.isfinite(values)]
    if len(values) < FEWEST_ROUNDS:
        return None
    interval = quantile_test(values, q=float(np.median(values)), p=0.5).confidence_interval(0.95)
    return Ratio(float(np.median(values)), float(interval.low), float(interval.high))


def as_dict(ratio: Ratio | None) -> dict[str, float] | None:
    return None if ratio is None else asdict(ratio)
