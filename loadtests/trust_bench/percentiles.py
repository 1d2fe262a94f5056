"""Percentiles that a load test finds, beside those of the delays that the server really injected.

Both are of the same requests, so no sampling error is between them: only the way there and back, and the clocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadtests.known_delays.local import KnownDelays, known_delays
from loadtests.load import Closed, Load, Open, run_load
from loadtests.metrics import PERCENTILES
from loadtests.recording import Stage
from loadtests.schedule import read_schedule
from loadtests.trust_bench.measure import PAYLOADS, WITHIN, Measure, decided, reasons

DELAYS = ("constant:100", "lognormal:100,0.3", "bimodal:100,400,0.05")
WORKLOADS: dict[str, Open | Closed] = {
    "open, poisson:200": Open(read_schedule("poisson:200"), seed=1),
    "closed, 20 users": Closed(20, begin_within_s=0.15),  # as the warm-up that `compare` has by default lets them
}
TURN_S, WARM_UP_S = 10.0, 1.0
SECONDS = len(DELAYS) * len(WORKLOADS) * (TURN_S + WARM_UP_S)
COMPARED = ("p50_ms", "p90_ms", "p99_ms")


def measures() -> Iterator[Measure]:
    for delay in DELAYS:
        for name, workload in WORKLOADS.items():
            with known_delays("--delay", delay) as server:
                yield percentiles(server, f"{delay}, {name}", workload)


def percentiles(server: KnownDelays, name: str, workload: Open | Closed) -> Measure:
    """The warm-up is a load of its own, so that the server can forget it; the users begin anew after it."""
    run_load(server.target(), workload, PAYLOADS, seconds=WARM_UP_S, warm_up_s=0)
    server.forget()
    load = run_load(server.target(), workload, PAYLOADS, seconds=TURN_S, warm_up_s=0)
    injected = server.delays()
    errors = {metric: measured_ms(load, metric) / injected[metric] - 1 for metric in COMPARED}
    return Measure(
        f"percentiles: {name}",
        f"p50, p90 and p99 within {WITHIN:.0%} of the injected delays",
        ", ".join(f"{metric[:-3]} {error:+.2%}" for metric, error in errors.items()) + reasons(load),
        {
            "requests": load.recording.answered,
            "injected": {metric: injected[metric] for metric in ("count", "mean_ms", *COMPARED)},
            "measured": {metric: measured_ms(load, metric) for metric in COMPARED},
            "send_lag_p99_ms": load.recording.percentile_ms(Stage.LAG, 99),
        },
        decided(
            injected["count"] == load.recording.answered and all(abs(error) <= WITHIN for error in errors.values()),
            load,
        ),
    )


def measured_ms(load: Load, metric: str) -> float:
    return load.recording.percentile_ms(Stage.TOTAL, PERCENTILES[metric]) or 0.0
