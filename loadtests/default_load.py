"""A load to begin with, for who does not say which: light enough that latency is not mostly queueing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from loadtests.load import Closed, run_load
from loadtests.results import Target
from loadtests.scenario import Payload
from loadtests.schedule import Schedule, poisson
from loadtests.served import TargetError

USERS, SECONDS, WARM_UP_S = 4, 2.0, 1.0
SHARE = 0.5  # of the throughput found; at half of its capacity a queue is short (M/M/1: one in service on average)


def default_schedule(targets: Iterable[Target], payloads: Sequence[Payload]) -> Schedule:
    """Poisson arrivals that the slower of the targets can take. Raises TargetError where one answers nothing."""
    rates = []
    for target in targets:
        print(f"{target.variant}: {USERS} users for {WARM_UP_S + SECONDS:g} s, to find a load", file=sys.stderr)
        load = run_load(target, Closed(USERS), payloads, seconds=SECONDS, warm_up_s=WARM_UP_S)
        if not load.recording.answered:
            reasons = ", ".join(load.recording.failures) or load.incomplete or "no answer came"
            raise TargetError(f"{target.variant} at {target.host} answers no request: {reasons}")
        rates.append(load.recording.answered / load.seconds)
    rate = float(f"{SHARE * min(rates):.2g}")  # two digits: people will write it down
    schedule = poisson(rate)
    print(f"--schedule {schedule.text}: half of what {USERS} users get from the slower", file=sys.stderr)
    return schedule
