"""A queue M/D/N: the highest rate at which it holds an objective, found by search, and known by simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from loadtests.capacity import search
from loadtests.findings import Outcome
from loadtests.known_delays.local import known_delays
from loadtests.probing import Objective, probe_with
from loadtests.trust_bench.measure import PAYLOADS, Measure

SERVERS, DELAY_MS, SLO_P99_MS, FIRST_RATE = 4, 20, 100.0, 60.0
LEAST, MOST = 0.9, 1.05  # of the rate that is known; the search itself is precise to 5 %
SECONDS = 180.0  # about
ARRIVALS = 400_000


def measures() -> Iterator[Measure]:
    with known_delays("--delay", f"constant:{DELAY_MS}", "--capacity", str(SERVERS)) as server:
        probe = probe_with(server.target(), PAYLOADS, Objective(SLO_P99_MS))
        found = search(probe, SLO_P99_MS, variant="a", first_rate=FIRST_RATE)
        known_rps = held_rps(SERVERS, server.delays()["mean_ms"] / 1e3, SLO_P99_MS / 1e3)
    holds = found.rate_rps is not None and LEAST <= found.rate_rps / known_rps <= MOST
    undecided = found.incomplete or found.limited_by == "generator"
    yield Measure(
        f"capacity: {SERVERS} servers of {DELAY_MS} ms, p99 {SLO_P99_MS:g} ms",
        f"{LEAST} to {MOST} of {known_rps:.1f} req/s, by simulation",
        f"{found.rate_rps or 0:.1f} req/s, after {len(found.probes)} probes; limited by the {found.limited_by}",
        {
            "rate_rps": found.rate_rps,
            "above_rps": found.above_rps,
            "known_rps": known_rps,
            "probes": [[probe.rate_rps, probe.seconds, probe.p99_ms, probe.reason] for probe in found.probes],
        },
        Outcome.UNDECIDED if undecided else Outcome.HOLDS if holds else Outcome.FAILS,
    )


def held_rps(servers: int, delay_s: float, p99_s: float) -> float:
    """The rate at which the p99 of waits and delay is `p99_s`. The same arrivals, closer or wider, serve all rates."""
    most = servers / delay_s

    def beyond(rate: float) -> float:
        return float(np.quantile(waits_s(rate, servers, delay_s), 0.99)) + delay_s - p99_s

    return float(brentq(beyond, most / 100, most, rtol=1e-4))


def waits_s(rate_rps: float, servers: int, delay_s: float) -> NDArray[np.float64]:
    """Of Poisson arrivals. Where delays are constant, requests end in the order they came, so each gets the server that
    the last but `servers` had: as many queues of one server, each by Lindley's recursion."""
    due_s = np.random.default_rng(0).exponential(1 / rate_rps, ARRIVALS).cumsum()
    found = []
    for first in range(servers):
        excess = np.concatenate([[0.0], np.cumsum(delay_s - np.diff(due_s[first::servers]))])
        found.append(excess - np.minimum.accumulate(excess))
    return np.concatenate(found)
