"""A server that stalls: what a schedule shows of it, and what users who wait for their answers would have shown.

Of requests that are due all the time, `rate` a second, those in a stall of `S` seconds wait for its end and are served
then, `d` seconds each; those which it met in service end with it. So `rate * (S + 2 d - x)` requests take longer than
`x <= S`, and of `n` in all the p99 is where that is `n / 100`. A user meets the stall once: that is the mistake which
Tene calls coordinated omission, and the clock that starts when a request is sent makes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadtests.known_delays.local import known_delays
from loadtests.load import Closed, Load, Open, run_load
from loadtests.recording import Stage
from loadtests.schedule import read_schedule
from loadtests.trust_bench.measure import PAYLOADS, WITHIN, Measure, decided, reasons

RATE_RPS, TURN_S, STALL_S, STALL_AT_S, DELAY_S = 200, 20.0, 2.0, 10.0, 0.02
USERS = round(RATE_RPS * DELAY_S)  # they send at the same rate, but for the stall
SECONDS = 2 * TURN_S
EXPECTED_P99_MS = (STALL_S + 2 * DELAY_S - TURN_S / 100) * 1e3
UNSEEN = 0.1  # of what was expected


def measures() -> Iterator[Measure]:
    by_schedule = stalled(Open(read_schedule(f"constant:{RATE_RPS}"), seed=0))
    p99_ms = by_schedule.recording.percentile_ms(Stage.TOTAL, 99) or 0.0
    yield Measure(
        "stall: open workload, since requests were due",
        f"p99 within {WITHIN:.0%} of {EXPECTED_P99_MS:.0f} ms, by arithmetic",
        f"p99 {p99_ms:.0f} ms" + reasons(by_schedule),
        {"p99_ms": p99_ms, "expected_p99_ms": EXPECTED_P99_MS, "requests": by_schedule.recording.answered},
        decided(abs(p99_ms / EXPECTED_P99_MS - 1) <= WITHIN, by_schedule),
    )
    by_users = stalled(Closed(USERS))
    p99_ms = by_users.recording.percentile_ms(Stage.SENT, 99) or 0.0
    yield Measure(
        f"stall: {USERS} users, since requests were sent",
        f"p99 below {UNSEEN * EXPECTED_P99_MS:.0f} ms: the stall is not seen",
        f"p99 {p99_ms:.0f} ms" + reasons(by_users),
        {"p99_ms": p99_ms, "requests": by_users.recording.answered},
        decided(0 < p99_ms < UNSEEN * EXPECTED_P99_MS, by_users),
    )


def stalled(workload: Open | Closed) -> Load:
    options = ("--delay", f"constant:{DELAY_S * 1e3:g}", "--stall", f"{STALL_AT_S:g}:{STALL_S:g}")
    with known_delays(*options) as server:
        return run_load(server.target(), workload, PAYLOADS, seconds=TURN_S, warm_up_s=0)
