"""Two variants of one running service, measured in turn so that the machine's drift meets both alike.

Each round gives every lane the same number of seconds: the first variant, the second, and the first again. The third
lane is the A/A control: how far its ratio strays from 1 is what this run can not tell from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadtests.load import Closed, run_load
from loadtests.recording import Outcome
from loadtests.results import Target
from loadtests.scenario import Payload
from loadtests.turns import LANES, Plan, Turn

WARM_UP_S = 0.2  # at the head of every turn: connections open, caches fill; left out of all figures


def run_rounds(plan: Plan, images: Sequence[Payload]) -> Iterator[Turn]:
    """Yield every turn as it ends; the order of the lanes rotates from round to round."""
    for number in range(plan.rounds):
        for place in range(LANES):
            lane = (number + place) % LANES
            yield run_turn(plan, number, lane, images)


def run_turn(plan: Plan, number: int, lane: int, images: Sequence[Payload]) -> Turn:
    target = Target(plan.host, plan.lanes[lane])
    outcomes: list[Outcome] = []
    load = run_load(
        target, Closed(plan.users), images, seconds=plan.turn_s, warm_up_s=WARM_UP_S, on_outcome=outcomes.append
    )
    latencies = tuple((outcome.ended_s - outcome.due_s) * 1e3 for outcome in outcomes if not outcome.problem)
    failures = tuple(outcome.problem for outcome in outcomes if outcome.problem)
    return Turn(number, lane, target.variant, load.seconds, latencies, failures)
