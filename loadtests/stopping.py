"""When a comparison has enough rounds."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.differences import change, lacking, rounds_of
from loadtests.metrics import FEWEST_ROUNDS, LEVEL, PRIMARY
from loadtests.results import Turn


def enough(
    turns: Sequence[Turn],
    primary: str = PRIMARY,
    level: float = LEVEL,
    within_percent: float = 2.0,
    fewest_rounds: int = FEWEST_ROUNDS,
) -> bool:
    """Whether the primary metric's interval reaches no further than `within_percent` to either side, on average.

    Of the ratio; for failure_rate, in points of the difference. The width alone decides. Who looks after every round
    and stops at the first interval that leaves out 1 finds a difference sooner or later where there is none (Armitage,
    McPherson, Rowe 1969, "Repeated significance tests on accumulating data"); the width does not know on which side
    of 1 the interval lies. False where there is no interval.
    """
    rounds = rounds_of(turns)
    if len(rounds) < fewest_rounds or lacking(primary, rounds):
        return False
    found = change(primary, rounds, level)
    return (found.high - found.low) / 2 * 100 <= within_percent
