"""What a cell's turns show of the measures that this service is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from loadtests.ratios import FEWEST_ROUNDS, Ratio, median_over
from loadtests.serving_bench.plan import CEILINGS, PEERS, Cell, Lane
from loadtests.serving_bench.turns import Turn

MOST_FAILURES = 0.01  # of all requests of a lane; beyond, the answered ones do not stand for the rest
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
Figure = Callable[[Turn], float]


def throughput(turn: Turn) -> float:
    return turn.throughput_rps


def cpu(turn: Turn) -> float:
    return turn.cpu_us


def p99(turn: Turn) -> float:
    return turn.p99_us


@dataclass(frozen=True, slots=True)
class Measure:
    """A claim, the figure it is judged by, and the verdict: on the interval, so that one which straddles the bound is
    undecided."""

    claim: str
    value: Ratio | None
    verdict: str


def at_least(claim: str, value: Ratio | None, bound: float) -> Measure:
    if value is None:
        return too_few(claim)
    return Measure(claim, value, HOLDS if value.low >= bound else FAILS if value.high < bound else UNDECIDED)


def at_most(claim: str, value: Ratio | None, bound: float) -> Measure:
    if value is None:
        return too_few(claim)
    return Measure(claim, value, HOLDS if value.high <= bound else FAILS if value.low > bound else UNDECIDED)


def less_than(claim: str, value: Ratio | None, bound: float) -> Measure:
    if value is None:
        return too_few(claim)
    return Measure(claim, value, HOLDS if value.high < bound else FAILS if value.low >= bound else UNDECIDED)


def not_slower(claim: str, value: Ratio | None) -> Measure:
    """Slower is what an interval shows that lies below 1 altogether. There is nothing in between: where two servers
    wait for the same engine their ratio is 1, and no interval of it can lie above."""
    if value is None:
        return too_few(claim)
    return Measure(claim, value, FAILS if value.high < 1 else HOLDS)


def too_few(claim: str) -> Measure:
    return Measure(claim, None, f"{UNDECIDED}: fewer than {FEWEST_ROUNDS} rounds")


def over_rounds(turns: Sequence[Turn], lanes: Sequence[Lane], relate: Callable[..., float]) -> Ratio | None:
    """`relate` of the lanes' turns, round by round where each lane has one that answered anything.

    What differs from process to process of one program is the same in all rounds of a start: where there were enough
    starts, the interval is over the median of each, and holds it.
    """
    rounds: dict[int, dict[Lane, Turn]] = {}
    for turn in turns:
        if turn.requests:
            rounds.setdefault(turn.round, {})[turn.lane] = turn
    by_start: dict[int, list[float]] = {}
    for found in rounds.values():
        if set(lanes) <= found.keys():
            by_start.setdefault(found[lanes[0]].start, []).append(relate(*(found[lane] for lane in lanes)))
    if len(by_start) >= FEWEST_ROUNDS:
        return median_over(np.array([np.median(values) for values in by_start.values()]))
    return median_over(np.array(list(chain.from_iterable(by_start.values())), np.float64))


def ours_over(turns: Sequence[Turn], lane: Lane, figure: Figure) -> Ratio | None:
    def relate(ours: Turn, other: Turn) -> float:
        return figure(ours) / figure(other) if figure(other) else float("nan")

    return over_rounds(turns, (Lane.OURS, lane), relate)


def medians(turns: Sequence[Turn], figure: Figure) -> dict[Lane, float]:
    by_lane: dict[Lane, list[float]] = {}
    for turn in turns:
        by_lane.setdefault(turn.lane, []).append(figure(turn))
    return {lane: float(np.median(by_lane[lane])) for lane in Lane if lane in by_lane}


def failure_rates(turns: Sequence[Turn]) -> dict[Lane, float]:
    requests, failures = dict.fromkeys(Lane, 0), dict.fromkeys(Lane, 0)
    for turn in turns:
        requests[turn.lane] += turn.requests
        failures[turn.lane] += sum(turn.failures.values())
    return {turn.lane: failures[turn.lane] / max(requests[turn.lane], 1) for turn in turns}


def judge(cell: Cell, turns: Sequence[Turn]) -> list[Measure]:
    """Lanes in which too many requests fail are not compared with; if it is ours, nothing is."""
    rates = failure_rates(turns)
    if rates.get(Lane.OURS, 0) > MOST_FAILURES:
        return [Measure("nothing is judged", None, f"{rates[Lane.OURS]:.1%} of our requests failed")]
    return list(measures(cell, [turn for turn in turns if rates[turn.lane] <= MOST_FAILURES]))


def measures(cell: Cell, turns: Sequence[Turn]) -> Iterator[Measure]:
    there = {turn.lane for turn in turns}
    small = cell.network == "resnet20"
    if (ceilings := there & set(CEILINGS)) and small:
        thriftiest = best(min, turns, ceilings, cpu)
        ratio = ours_over(turns, thriftiest, cpu)
        yield at_most(f"CPU a request over the ceiling's ({thriftiest}), at most 1.3", ratio, 1.3)
    if ceilings and not small:
        highest = best(max, turns, ceilings, throughput)
        ratio = ours_over(turns, highest, throughput)
        yield at_least(f"throughput over the ceiling's ({highest}), at least 0.95", ratio, 0.95)
    if {Lane.CEILING, Lane.STARLETTE} <= there and small:
        yield at_most("CPU a request beyond ceiling and bare starlette, at most 60 us", beyond(turns), 60)
    if peers := there & set(PEERS):
        yield from against_peers(peers, turns, small=small)
    if small and cell.concurrency == 16:
        spread = over_rounds(turns, (Lane.OURS,), lambda turn: turn.p99_us / turn.p50_us)
        yield less_than("p99 over p50, less than 3", spread, 3)


def beyond(turns: Sequence[Turn]) -> Ratio | None:
    """Microseconds that the hot route takes on top of a bare server that does nothing and of work without a server."""
    lanes = (Lane.OURS, Lane.CEILING, Lane.STARLETTE)
    return over_rounds(turns, lanes, lambda ours, ceiling, bare: cpu(ours) - cpu(ceiling) - cpu(bare))


def best(choose: Callable[..., Lane], turns: Sequence[Turn], lanes: set[Lane], figure: Figure) -> Lane:
    """The lane whose median `choose`, min or max, finds."""
    found = medians([turn for turn in turns if turn.lane in lanes], figure)
    return choose(found, key=found.__getitem__)


def against_peers(peers: set[Lane], turns: Sequence[Turn], *, small: bool) -> Iterator[Measure]:
    """Against whichever is the best of them in what is judged."""
    fastest, quickest = best(max, turns, peers, throughput), best(min, turns, peers, p99)
    ratio = ours_over(turns, fastest, throughput)
    if small:
        yield at_least(f"throughput over the best peer's ({fastest}), at least 1.25", ratio, 1.25)
    else:
        yield not_slower(f"throughput over the best peer's ({fastest}), not slower", ratio)
    yield less_than(f"p99 over the best peer's ({quickest}), less than 1", ours_over(turns, quickest, p99), 1)
