"""The figures that comparisons and gates are about, of any number of turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from loadtests import bootstrap
from loadtests.findings import Interval
from loadtests.recording import Stage, histogram
from loadtests.results import Turn

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9}
METRICS = (*PERCENTILES, "throughput_rps", "failure_rate")
PRIMARY = "p50_ms"
LEVEL = 0.99
FEWEST_ROUNDS = 10  # with 8, intervals at 99 % covered 98.5 % of simulated truths; docs/decisions.md
BINS = histogram()  # empty, for where its bins lie
MOST_FAILED = 0.01  # of all requests; beyond, the answered ones do not stand for the rest


def too_few(rounds: int) -> str:
    """Why so many rounds show nothing."""
    many = "1 whole round" if rounds == 1 else f"{rounds} whole rounds"
    return f"{many}, at least {FEWEST_ROUNDS} are needed: ask for more, and for the seconds that they take"


def value(metric: str, turns: Sequence[Turn]) -> float | None:
    """Of the turns together; None where nothing was answered (failure_rate: where nothing was sent)."""
    if metric == "failure_rate":
        requests = answered(turns) + failed(turns)
        return failed(turns) / requests if requests else None
    if not answered(turns):
        return None
    if metric == "throughput_rps":
        return answered(turns) / sum(turn.seconds for turn in turns)
    return upper_ms(int(position(metric, counts(turns))))


def answered(turns: Sequence[Turn]) -> int:
    return sum(turn.recording.answered for turn in turns)


def failed(turns: Sequence[Turn]) -> int:
    return sum(turn.recording.failed for turn in turns)


def too_many_failed(turns: Sequence[Turn]) -> str:
    """How many of the requests failed, and what most of them by; empty where few did."""
    share_failed = value("failure_rate", turns)
    if share_failed is None or share_failed <= MOST_FAILED:
        return ""
    ((reason, times),) = sum((turn.recording.failures for turn in turns), Counter[str]()).most_common(1)
    return f"failed, {share_failed:.1%}, {times:,} of them by {reason}"


def fewest_answered(metric: str) -> int:
    """So that one answer is expected beyond the percentile: 100 for p99_ms, 1,000 for p999_ms."""
    if metric == "failure_rate":
        return 0
    return round(100 / (100 - PERCENTILES[metric])) if metric in PERCENTILES else 1


def over_rounds(metric: str, rounds: Sequence[Sequence[Turn]], level: float) -> Interval:
    """Of all rounds together, with the interval by resampling whole rounds: a stall in one of them widens it.

    At least two rounds and one answer. Failures are judged by the exact binomial interval as well, because rounds
    without any have nothing to vary.
    """
    parts, figure = additive(metric, rounds)

    def statistic(chosen: bootstrap.Values, axis: int) -> bootstrap.Values:
        assert axis == -1
        times = (chosen[..., np.newaxis] == np.arange(len(rounds))).sum(-2)  # [..., rounds]
        return figure(times.astype(float) @ parts)

    found = bootstrap.interval([np.arange(len(rounds), dtype=float)], statistic, level, batch=1_000)
    if metric != "failure_rate":
        return found
    failures, requests = parts.sum(0).astype(int)
    exact = stats.binomtest(failures, requests).proportion_ci(level)
    return Interval(found.estimate, min(found.low, float(exact.low)), max(found.high, float(exact.high)))


def additive(metric: str, rounds: Sequence[Sequence[Turn]]) -> tuple[bootstrap.Values, bootstrap.Statistic]:
    """What adds up over rounds, [rounds, parts], and how the metric follows from sums, [..., parts] to [...]."""
    if metric == "failure_rate":
        return np.array([(failed(turns), answered(turns) + failed(turns)) for turns in rounds], float), share
    if metric == "throughput_rps":
        return np.array([(answered(turns), sum(turn.seconds for turn in turns)) for turns in rounds], float), share
    by_round = np.array([counts(turns) for turns in rounds])
    occupied = np.flatnonzero(by_round.any(0))
    latencies_ms = np.array([upper_ms(int(index)) for index in occupied])
    return by_round[:, occupied], lambda sums: latencies_ms[position(metric, sums)]


def counts(turns: Sequence[Turn]) -> bootstrap.Values:
    """Answers in each of HdrHistogram's bins: its own percentiles walk them in Python, many times slower."""
    arrays = [np.ctypeslib.as_array(turn.recording.histograms[Stage.TOTAL].counts) for turn in turns]
    found: bootstrap.Values = np.sum(arrays, axis=0, dtype=float)
    return found


def position(metric: str, counted: bootstrap.Values) -> NDArray[np.intp]:
    """Which of the last axis's bins holds the percentile, by HdrHistogram's own rule."""
    cumulative = counted.cumsum(-1)
    rank = np.maximum(np.floor(PERCENTILES[metric] / 100 * cumulative[..., -1:] + 0.5), 1)
    found: NDArray[np.intp] = (cumulative < rank).sum(-1)
    return found


def upper_ms(index: int) -> float:
    """The highest latency that HdrHistogram counts in a bin."""
    return float(BINS.get_highest_equivalent_value(BINS.get_value_from_index(index))) / 1e3


def share(sums: bootstrap.Values) -> bootstrap.Values:
    """The first part over the second; 0 of nothing."""
    return sums[..., 0] / np.maximum(sums[..., 1], np.finfo(float).tiny)
