"""Short comparisons, many of them: of a variant with one just like it, and with one that is 5 % slower.

Delays are log-normal with a median of 20 ms and a spread of 5 %. A round's median is of about 160 requests a side, so
the ratio of two strays by 0.7 % for that alone (1.25 sigma / sqrt(n), of both); with 1 % in all, the 99 % interval over
10 rounds is about 1 % to either side. If intervals cover, more than 2 of 40 comparisons of equals show a difference
in 0.7 % of benchmarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from loadtests.differences import HIGHER, LOWER, NONE_SHOWN, compare
from loadtests.findings import Outcome
from loadtests.known_delays.local import KnownDelays, known_delays
from loadtests.load import late
from loadtests.metrics import FEWEST_ROUNDS, PRIMARY
from loadtests.recording import merged
from loadtests.results import Side, Turn
from loadtests.rounds import ORDERS, Plan, run_round
from loadtests.schedule import read_schedule
from loadtests.trust_bench.measure import PAYLOADS, Measure

COMPARISONS, TURN_S, WARM_UP_S = 40, 0.4, 0.1
SCHEDULE = read_schedule("poisson:200")
DELAY = "lognormal:20,0.05"
START_S = 0.5  # of a server
SECONDS = 2 * COMPARISONS * (START_S + FEWEST_ROUNDS * len(ORDERS[0]) * (TURN_S + WARM_UP_S))
MAX_LAG_MS = 5.0
KINDS = {
    "comparisons: A/A": (1.0, NONE_SHOWN, 38),
    "comparisons: A/B, B 5 % slower": (1.05, HIGHER, 36),
}  # the factor, what is to be said, and by how many at least


def measures() -> Iterator[Measure]:
    """Each measure again and again, as comparisons are done; the kinds take turns, so that drift meets both."""
    told = {name: Counter[str]() for name in KINDS}
    for number in range(COMPARISONS):
        for name, (factor, expected, at_least) in KINDS.items():
            with known_delays("--delay", DELAY, "--factor", f"b={factor}", "--seed", str(number)) as server:
                told[name][said(rounds(server, number))] += 1
            yield measure(name, told[name], expected, at_least)


def rounds(server: KnownDelays, number: int) -> list[Turn]:
    targets = {side: server.target(side) for side in Side}
    plan = Plan(targets, SCHEDULE, number * FEWEST_ROUNDS, TURN_S, WARM_UP_S, MAX_LAG_MS)
    return [turn for round_number in range(FEWEST_ROUNDS) for turn in run_round(plan, round_number, PAYLOADS)]


def said(turns: Sequence[Turn]) -> str:
    """What the comparison makes of them."""
    if reason := late(merged(turn.recording for turn in turns), MAX_LAG_MS):
        return reason
    return next(difference.says for difference in compare(turns).differences if difference.metric == PRIMARY)


def measure(name: str, told: Counter[str], expected: str, at_least: int) -> Measure:
    """`told` counts what comparisons said; those that could say nothing leave it open."""
    right, wrong = told[expected], sum(told[say] for say in {HIGHER, LOWER, NONE_SHOWN} - {expected})
    possible = COMPARISONS - wrong
    outcome = Outcome.HOLDS if right >= at_least else Outcome.UNDECIDED if possible >= at_least else Outcome.FAILS
    return Measure(
        name,
        f'at least {at_least} of {COMPARISONS} say "{expected}"',
        f"{right} of {told.total()}",
        dict(told),
        outcome,
    )
