"""The highest arrival rate that holds an objective: a search over probes, however load is made.

Rates are doubled (or halved) until one holds and one does not, then bisected by their logarithms. Whether a rate near
the edge holds is a matter of chance, so neither of the two rates that make the answer is taken from one probe: both are
tried again, for longer, and that counts. Where it contradicts the first, the search goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from loadtests.findings import Capacity, Probe

FEWEST_REQUESTS = 400  # of a probe; if 0.5 % (2 %) exceed the objective, 5 % (10 %) of probes misjudge it, binomial
LONGER = 3  # times, the second probe of a rate, which then misjudges it in 0.9 % (0.5 %)
HALVINGS = 5  # before no rate is said to hold


class Probing(Protocol):
    """Puts a rate on the service for some seconds, and judges what came of it."""

    def __call__(self, rate_rps: float, seconds: float, /) -> Probe: ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; `capacity` is what was known until then. The probe under way is left out: it says nothing of its rate."""

    def __init__(self, capacity: Capacity) -> None:
        super().__init__(capacity.incomplete)
        self.capacity = capacity


def search(
    probe: Probing,
    slo_p99_ms: float,
    *,
    variant: str,
    first_rate: float,
    precision: float = 0.05,
    seconds: float = 10.0,
    fewest_requests: int = FEWEST_REQUESTS,
    max_seconds: float = math.inf,
    on_probe: Callable[[Probe], None] | None = None,
) -> Capacity:
    """The highest rate that held and the lowest that did not are within `precision` of each other.

    A probe takes `seconds`, or as long as `fewest_requests` take, for its p99 to be told. `first_rate` is better
    low than high: a service takes time to recover from too much. `on_probe` gets each probe as it ends. The search ends
    with the first probe that is incomplete, and begins none but the first after `max_seconds`. Raises Interrupted.
    """
    bracket, probes, until = Bracket(), list[Probe](), time.monotonic() + max_seconds
    try:
        while (rate := bracket.next_rate(first_rate, precision)) is not None:
            if probes and time.monotonic() >= until:
                reason = f"the time was up after {counted(probes)}, before the answer was known"
                return bracket.capacity(variant, slo_p99_ms, probes, reason)
            longer = LONGER if rate in bracket else 1
            found = probe(rate, longer * max(seconds, fewest_requests / rate))
            probes.append(found)
            if on_probe is not None:
                on_probe(found)
            if found.incomplete:
                return bracket.capacity(variant, slo_p99_ms, probes, found.incomplete)
            bracket.learn(rate, found)
    except KeyboardInterrupt as error:
        reason = f"interrupted after {counted(probes)}"
        raise Interrupted(bracket.capacity(variant, slo_p99_ms, probes, reason)) from error
    return bracket.capacity(variant, slo_p99_ms, probes)


class Bracket:
    """The last probe of each rate, by whether it held, and which rates were tried twice."""

    def __init__(self) -> None:
        self.holding: dict[float, Probe] = {}
        self.failing: dict[float, Probe] = {}
        self.settled: set[float] = set()

    def __contains__(self, rate: float) -> bool:
        return rate in self.holding or rate in self.failing

    @property
    def held(self) -> float | None:
        return max(self.holding, default=None)

    @property
    def above(self) -> float | None:
        return min(self.failing, default=None)

    def learn(self, rate: float, found: Probe) -> None:
        if rate in self:
            self.settled.add(rate)
        self.holding.pop(rate, None)
        self.failing.pop(rate, None)
        (self.holding if found.holds else self.failing)[rate] = found

    def next_rate(self, first_rate: float, precision: float) -> float | None:
        """One of the bracket's own is to be tried again. None where the answer is known."""
        held, above = self.held, self.above
        if held is None:
            if above is None:
                return first_rate
            return above / 2 if above > first_rate / 2**HALVINGS else None
        if above is None:
            return held * 2
        if above / held > 1 + precision:
            return math.sqrt(held * above)
        return next((rate for rate in (held, above) if rate not in self.settled), None)

    def capacity(self, variant: str, slo_p99_ms: float, probes: Sequence[Probe], incomplete: str = "") -> Capacity:
        above = self.above
        limited_by = "generator" if above is not None and self.failing[above].invalid else "service"
        return Capacity(variant, slo_p99_ms, self.held, above, probes, limited_by, incomplete)


def counted(probes: Sequence[Probe]) -> str:
    return f"{len(probes)} probe{'s' * (len(probes) != 1)}"


def curve(probes: Sequence[Probe]) -> Sequence[Probe]:
    """The last probe of each rate, by rate: latency over the arrival rate."""
    return [found for _, found in sorted({found.rate_rps: found for found in probes}.items())]
