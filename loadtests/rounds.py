"""Turns of load in rounds, so that the machine's drift meets both sides alike.

A round of a comparison is A B B A, the next B A A B: what drifts evenly within a round falls on both. Both sides of a
round get the same arrivals; each round has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtests.load import Closed, Interrupted, Open, run_load
from loadtests.results import Side, Target, Turn
from loadtests.scenario import Payload
from loadtests.schedule import Schedule

ORDERS = ((Side.A, Side.B, Side.B, Side.A), (Side.B, Side.A, Side.A, Side.B))


@dataclass(frozen=True, slots=True)
class Plan:
    """One target, or two to compare. `load` is a schedule of arrivals or a number of users."""

    targets: Mapping[Side, Target]
    load: Schedule | int
    seed: int
    turn_s: float
    warm_up_s: float
    max_lag_ms: float

    def order(self, number: int) -> tuple[Side, ...]:
        return ORDERS[number % 2] if Side.B in self.targets else (Side.A,)

    def workload(self, number: int) -> Open | Closed:
        return Closed(self.load) if isinstance(self.load, int) else Open(self.load, self.seed + number)


def run_round(plan: Plan, number: int, payloads: Sequence[Payload]) -> Iterator[Turn]:
    """Yield every turn as it ends; the first that ends early is the last. Raises KeyboardInterrupt after that."""
    for place, side in enumerate(plan.order(number)):
        interrupted = None
        try:
            load = run_load(
                plan.targets[side],
                plan.workload(number),
                payloads,
                seconds=plan.turn_s,
                warm_up_s=plan.warm_up_s,
                max_lag_ms=math.inf,  # one hiccup makes 1 % of a short turn: the whole run is judged
            )
        except Interrupted as error:
            load, interrupted = error.load, error
        yield Turn(number, place, side, load.seconds, load.recording, load.incomplete, load.invalid)
        if interrupted is not None:
            raise interrupted
        if load.incomplete:
            return
