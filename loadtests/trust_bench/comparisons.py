"""Short comparisons, many of them: of a variant with one just like it, and with one that is 5 % slower.

Delays are log-normal with a median of 20 ms and a spread of 5 %. A round's median is of about 160 requests a side, so
the ratio of two strays by 0.7 % for that alone (1.25 sigma / sqrt(n), of both); with 1 % in all, the 99 % interval over
10 rounds is about 1 % to either side. If intervals cover, more than 2 of 40 comparisons of equals show a difference
in 0.7 % of benchmarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import inf

from loadtests.differences import HIGHER, LOWER, NONE_SHOWN, compare
from loadtests.findings import Outcome
from loadtests.known_delays.local import KnownDelays, known_delays
from loadtests.load import Open, run_load
from loadtests.metrics import FEWEST_ROUNDS, PRIMARY
from loadtests.recording import Recording, Stage
from loadtests.results import Side, Turn
from loadtests.schedule import read_schedule
from loadtests.trust_bench.measure import PAYLOADS, Measure

COMPARISONS, TURN_S, WARM_UP_S = 40, 0.4, 0.1
ROUND = (Side.A, Side.B, Side.B, Side.A)
SCHEDULE = read_schedule("poisson:200")
DELAY = "lognormal:20,0.05"
START_S = 0.5  # of a server
SECONDS = 2 * COMPARISONS * (START_S + FEWEST_ROUNDS * len(ROUND) * (TURN_S + WARM_UP_S))
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
    """A B B A, with the same arrivals for all turns of a round."""
    turns = []
    for round_number in range(FEWEST_ROUNDS):
        workload = Open(SCHEDULE, seed=number * FEWEST_ROUNDS + round_number)
        for place, side in enumerate(ROUND):
            load = run_load(
                server.target(side), workload, PAYLOADS, seconds=TURN_S, warm_up_s=WARM_UP_S, max_lag_ms=inf
            )
            turns.append(Turn(round_number, place, side, load.seconds, load.recording, load.incomplete, load.invalid))
    return turns


def said(turns: Sequence[Turn]) -> str:
    """What the comparison makes of them. The generator's lag is judged over all: a turn's p99 is its worst request."""
    together = Recording()
    for turn in turns:
        together.merge(turn.recording)
    lag_ms = together.percentile_ms(Stage.LAG, 99)
    if lag_ms is None or lag_ms > MAX_LAG_MS:
        return f"the generator was late: p99 send lag {lag_ms} ms"
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
