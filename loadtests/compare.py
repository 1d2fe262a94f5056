"""Two variants of one running service, measured in turn so that the machine's drift meets both alike.

Each round gives every lane the same number of seconds: the first variant, the second, and the first again. The third
lane is the A/A control: how far its ratio strays from 1 is what this run can not tell from nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gevent
from locust.env import Environment

from loadtests.scenario import Payload, user_of
from loadtests.turns import LANES, Plan, Turn

WARM_UP_S = 0.2  # at the head of every turn: connections open, caches fill; left out of all figures


def run_rounds(plan: Plan, images: Sequence[Payload]) -> Iterator[Turn]:
    """Yield every turn as it ends; the order of the lanes rotates from round to round."""
    for number in range(plan.rounds):
        for place in range(LANES):
            lane = (number + place) % LANES
            yield run_turn(plan, number, lane, images)


def run_turn(plan: Plan, number: int, lane: int, images: Sequence[Payload]) -> Turn:
    variant = plan.lanes[lane]
    environment = Environment(user_classes=[user_of(variant, images)], host=plan.host, stop_timeout=10)
    answered: list[tuple[float, float]] = []  # start (epoch seconds), latency (ms)
    failed: list[tuple[float, str]] = []

    def record(start_time: float, response_time: float, exception: BaseException | None, **_: Any) -> None:
        if exception is None:
            answered.append((start_time, response_time))
        else:
            failed.append((start_time, str(exception)))

    environment.events.request.add_listener(record)  # type: ignore[no-untyped-call]
    runner = environment.create_local_runner()
    try:
        runner.start(plan.users, spawn_rate=plan.users, wait=True)
        gevent.sleep(WARM_UP_S)
        begun = time.time()
        gevent.sleep(plan.turn_s)
        ended = time.time()
    finally:
        runner.quit()
    latencies = tuple(latency for start, latency in answered if begun <= start < ended)
    failures = tuple(reason for start, reason in failed if begun <= start < ended)
    return Turn(number, lane, variant, ended - begun, latencies, failures)
