"""Two sides of a comparison: how much each metric differs, and whether the difference can be told from none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.stats import trim_mean

from loadtests import bootstrap
from loadtests.findings import Comparison, Difference, Interval
from loadtests.metrics import (
    FEWEST_ROUNDS,
    LEVEL,
    METRICS,
    MOST_FAILED,
    PRIMARY,
    answered,
    failed,
    fewest_answered,
    too_few,
    too_many_failed,
    value,
)
from loadtests.results import Side, Turn

HIGHER, LOWER, NONE_SHOWN = "higher", "lower", "no difference shown"
TRIMMED = 0.25  # of the rounds at either end; what is left is the interquartile mean
Round = Sequence[Turn]  # one side's share of it


@dataclass(frozen=True, slots=True)
class Rounds:
    """The turns of each side by round. `paired`: the same place in both belongs to the same round."""

    a: Sequence[Round]
    b: Sequence[Round]
    paired: bool

    def __len__(self) -> int:
        return min(len(self.a), len(self.b))


def compare(turns: Sequence[Turn], primary: str = PRIMARY, level: float = LEVEL) -> Comparison:
    """Whole rounds only. Where no round has both sides, they come from two runs and are resampled independently.

    The A/A control is shown and does not decide: its numerators are drawn by lot, so that only chance can move it
    off 1, and asking the difference to clear its interval as well would cost half of what can be found.
    """
    rounds = rounds_of(turns)
    differences = [difference(metric, rounds, level) for metric in METRICS]
    return Comparison(level, primary, len(rounds) if rounds.b else len(rounds.a), differences, None)


def rounds_of(turns: Sequence[Turn]) -> Rounds:
    """Turns that ended early are left out, and rounds that lack one of two turns a side."""
    by_round: dict[int, dict[Side, list[Turn]]] = defaultdict(lambda: {Side.A: [], Side.B: []})
    for turn in sorted(turns, key=lambda turn: (turn.round, turn.place)):
        by_round[turn.round][turn.side] += [turn] * (not turn.incomplete)
    rounds = list(by_round.values())
    if any(sides[Side.A] and sides[Side.B] for sides in rounds):
        whole = [sides for sides in rounds if len(sides[Side.A]) == len(sides[Side.B]) == 2]
        return Rounds([sides[Side.A] for sides in whole], [sides[Side.B] for sides in whole], paired=True)
    a, b = ([sides[side] for sides in rounds if sides[side]] for side in Side)
    return Rounds(a, b, paired=False)


def difference(metric: str, rounds: Rounds, level: float) -> Difference:
    a, b = (overall(metric, side) for side in (rounds.a, rounds.b))
    if too_few := lacking(metric, rounds):
        return Difference(metric, a, b, None, None, too_few)
    found = change(metric, rounds, level)
    return Difference(
        metric, a, b, found, control(metric, rounds, level), unsound(metric, rounds) or says(found, metric)
    )


def overall(metric: str, rounds: Sequence[Round]) -> float | None:
    turns = list(chain.from_iterable(rounds))
    return value(metric, turns) if answered(turns) >= fewest_answered(metric) else None


def lacking(metric: str, rounds: Rounds) -> str:
    """Why there is no interval; empty where there is one."""
    if len(rounds) < FEWEST_ROUNDS:
        return too_few(len(rounds))
    for side, found in zip(Side, (rounds.a, rounds.b), strict=True):
        fewest = min(found, key=answered)
        if answered(fewest) < fewest_answered(metric):
            return failing(metric, side, found) or (
                f"side {side} answered {answered(fewest):,} requests in round {fewest[0].round}, "
                f"{metric} needs at least {fewest_answered(metric):,}; make turns longer or the rate higher"
            )
        if value(metric, fewest) is None:
            return f"side {side} was sent nothing in round {fewest[0].round}"
    return ""


def unsound(metric: str, rounds: Rounds) -> str:
    """Why the interval says nothing; empty where it does."""
    turns = list(chain.from_iterable((*rounds.a, *rounds.b)))
    if invalid := [turn.invalid for turn in turns if turn.invalid]:
        return f"{len(invalid)} of {len(turns)} turns had not the load that was planned: {invalid[0]}"
    for side, found in zip(Side, (rounds.a, rounds.b), strict=True):
        if why := failing(metric, side, found):
            return why
    return ""


def failing(metric: str, side: Side, rounds: Sequence[Round]) -> str:
    """How many requests failed, where the answered ones do not stand for them; otherwise empty."""
    turns = list(chain.from_iterable(rounds))
    if metric == "failure_rate" or not (why := too_many_failed(turns)):
        return ""
    return f"{failed(turns):,} requests of side {side} {why}; at most {MOST_FAILED:.0%} may"


def change(metric: str, rounds: Rounds, level: float) -> Interval:
    """B over A (failure_rate: B minus A). Rounds are resampled whole, so that pairs stay together."""
    a, b = (np.array([scaled(metric, turns) for turns in side]) for side in (rounds.a, rounds.b))
    centre = centre_of(metric)
    if rounds.paired:
        return unscaled(metric, bootstrap.interval([b - a], centre, level))
    return unscaled(metric, bootstrap.interval([a, b], lambda a, b, axis: centre(b, axis) - centre(a, axis), level))


def control(metric: str, rounds: Rounds, level: float) -> Interval | None:
    """Each side's one turn against its other, the mean of both sides: as noisy as the change. None where turns lack
    answers, or rounds a second turn.

    Which turn is the numerator is drawn by lot, so that drift during a round shows as width and not as a difference.
    """
    sides = [turns for turns in (*rounds.a, *rounds.b) if len(turns) == 2]
    if not rounds.paired or any(value(metric, [turn]) is None for turns in sides for turn in turns):
        return None
    strayed = np.array([scaled(metric, [first]) - scaled(metric, [second]) for first, second in sides])
    lots = np.random.default_rng(bootstrap.SEED).choice([-1.0, 1.0], len(strayed))
    by_round = (strayed * lots).reshape(2, -1).mean(0)
    return unscaled(metric, bootstrap.interval([by_round], centre_of(metric), level))


def centre_of(metric: str) -> bootstrap.Statistic:
    """The interquartile mean, which a disturbed round does not move; the plain mean of failures, which would be trimmed
    away where few rounds have any."""
    return np.mean if metric == "failure_rate" else trimmed


def trimmed(values: bootstrap.Values, axis: int = -1) -> bootstrap.Values:
    found: bootstrap.Values = trim_mean(values, TRIMMED, axis=axis)
    return found


def scaled(metric: str, turns: Round) -> float:
    """On the scale where differences are the change: the logarithm, for a ratio."""
    found = value(metric, turns)
    assert found is not None
    return found if metric == "failure_rate" else float(np.log(found))


def unscaled(metric: str, found: Interval) -> Interval:
    if metric == "failure_rate":
        return found
    return Interval(*(float(np.exp(end)) for end in (found.estimate, found.low, found.high)))


def says(found: Interval, metric: str) -> str:
    """By whether the interval leaves out no difference."""
    none = 0.0 if metric == "failure_rate" else 1.0
    if found.low > none:
        return HIGHER
    return LOWER if found.high < none else NONE_SHOWN
