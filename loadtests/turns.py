"""What a comparison measured, and what it shows. Plain arithmetic: no load is made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import quantile_test

FEWEST_ROUNDS = 6  # with fewer, no order statistics enclose the median with 95 % confidence
LANES = 3  # the first variant, the second, and the first again


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: `rounds` rounds of `turn_s` seconds a lane with `users` clients in a closed workload."""

    host: str
    variants: tuple[str, str]
    users: int
    rounds: int
    turn_s: float

    @property
    def lanes(self) -> tuple[str, ...]:
        first, second = self.variants
        return (first, second, first)


@dataclass(frozen=True, slots=True)
class Turn:
    """One lane's share of a round. `latencies_ms` are of answered requests, failures are counted apart."""

    round: int
    lane: int
    variant: str
    seconds: float
    latencies_ms: tuple[float, ...]
    failures: tuple[str, ...]

    @property
    def p50_ms(self) -> float:
        return float(np.median(self.latencies_ms)) if self.latencies_ms else float("nan")

    @property
    def throughput_rps(self) -> float:
        return len(self.latencies_ms) / self.seconds


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median over rounds of what relates lanes, with its 95 % interval by order statistics (the sign test)."""

    median: float
    low: float
    high: float


def ratio(turns: Sequence[Turn], lane: int, figure: Callable[[Turn], float]) -> Ratio | None:
    """`figure` of a lane over that of lane 0, round by round; None where too few rounds have both."""
    by_place = {(turn.round, turn.lane): figure(turn) for turn in turns}
    rounds = sorted({number for number, _ in by_place if {(number, 0), (number, lane)} <= by_place.keys()})
    ratios = np.array([by_place[number, lane] / by_place[number, 0] for number in rounds if by_place[number, 0]])
    return median_over(ratios)


def median_over(values: NDArray[np.float64]) -> Ratio | None:
    """One value a round; None where too few are finite."""
    values = values[np.isfinite(values)]
    if len(values) < FEWEST_ROUNDS:
        return None
    interval = quantile_test(values, q=float(np.median(values)), p=0.5).confidence_interval(0.95)
    return Ratio(float(np.median(values)), float(interval.low), float(interval.high))


def as_dict(ratio: Ratio | None) -> dict[str, float] | None:
    return None if ratio is None else asdict(ratio)


def latencies(turns: Sequence[Turn], lane: int) -> NDArray[np.float64]:
    return np.array([latency for turn in turns if turn.lane == lane for latency in turn.latencies_ms])


def failure_rate(turns: Sequence[Turn]) -> float:
    failures = sum(len(turn.failures) for turn in turns)
    return failures / max(failures + sum(len(turn.latencies_ms) for turn in turns), 1)


def verdict(measured: Ratio | None, control: Ratio | None) -> str:
    """A difference counts when its interval leaves out 1 and everything that the A/A control's interval holds."""
    if measured is None or control is None:
        return f"too few rounds to say, {FEWEST_ROUNDS} are needed"
    if measured.low > max(1.0, control.high):
        return "higher"
    if measured.high < min(1.0, control.low):
        return "lower"
    return "no difference shown"
