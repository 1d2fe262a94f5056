"""Confidence intervals by resampling rounds, wide enough for few of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from loadtests.findings import Interval

RESAMPLES = 20_000
SEED = 0

Values = NDArray[np.float64]
Statistic = Callable[..., Values]


def interval(samples: Sequence[Values], statistic: Statistic, level: float, batch: int | None = None) -> Interval:
    """Of a statistic of one sample, or of samples that are resampled independently; each has at least two values.

    `statistic(*samples, axis)` reduces that axis of arrays of any leading shape, `batch` resamples at once or all.

    The percentile interval of n values is too narrow by sqrt((n - 1) / n) and by the normal quantile that it has in
    place of Student's; it is expanded for both (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The
    American Statistician 69(4), on the expanded percentile interval).
    """
    n = min(len(sample) for sample in samples)
    tail = stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, n - 1))
    found = stats.bootstrap(
        tuple(samples),
        statistic,
        confidence_level=1 - 2 * tail,
        n_resamples=RESAMPLES,
        batch=batch,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(float(statistic(*samples, axis=-1)), float(found.low), float(found.high))
