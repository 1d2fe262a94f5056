"""A probe of a capacity search: Poisson arrivals at a rate, and whether they kept the objective.

p99 within the objective since requests were due, with few failures, says that nearly all were answered soon. It does
not say that this can go on: where the rate is a little too high, waits grow, and a short probe ends before they reach
the objective. So latency must not grow either, as in the definition of sustainable throughput by Karimov et al. 2018
("Benchmarking Distributed Stream Data Processing Systems", ICDE).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from loadtests.capacity import Probing
from loadtests.findings import Probe
from loadtests.load import Load, Open, run_load
from loadtests.metrics import fewest_answered
from loadtests.recording import Outcome, Stage
from loadtests.results import Target
from loadtests.scenario import Payload
from loadtests.schedule import read_schedule

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Objective:
    """p99 in milliseconds since requests were due; the share of failures; and how far a service may fall behind the
    arrivals, as a share of them: by requests that are not answered, or by seconds of waiting a second."""

    p99_ms: float
    failure_rate: float = 0.01
    behind: float = 0.02


def probe_with(
    target: Target,
    payloads: Sequence[Payload],
    objective: Objective,
    *,
    seed: int = 0,
    warm_up_s: float = 1.0,
    max_lag_ms: float = 5.0,
) -> Probing:
    """Each probe has arrivals of its own, by `seed` and its number. Its calls raise load.Interrupted."""
    seeds = count(seed)

    def probe(rate_rps: float, seconds: float) -> Probe:
        workload = Open(read_schedule(f"poisson:{rate_rps}"), next(seeds))
        planned = sum(due_s >= warm_up_s for due_s in workload.schedule.due_s(warm_up_s + seconds, workload.seed))
        outcomes: list[Outcome] = []
        load = run_load(
            target,
            workload,
            payloads,
            seconds=seconds,
            warm_up_s=warm_up_s,
            patience_s=max(PATIENCE_S, 2 * objective.p99_ms / 1e3),
            max_lag_ms=max_lag_ms,
            on_outcome=outcomes.append,
        )
        reason = next(breaches(objective, load, planned, growth(outcomes, seconds)), "")
        recording = load.recording
        return Probe(
            rate_rps=rate_rps,
            seconds=load.seconds,
            answered=recording.answered,
            throughput_rps=recording.answered / load.seconds if load.seconds else 0.0,
            p50_ms=recording.percentile_ms(Stage.TOTAL, 50),
            p90_ms=recording.percentile_ms(Stage.TOTAL, 90),
            p99_ms=recording.percentile_ms(Stage.TOTAL, 99),
            failure_rate=recording.failure_rate,
            lag_p99_ms=recording.percentile_ms(Stage.LAG, 99),
            holds=not reason,
            reason=reason,
            invalid=load.invalid,
            incomplete=load.incomplete,
        )

    return probe


def breaches(objective: Objective, load: Load, planned: int, growth: float) -> Iterator[str]:
    """What kept the load from holding the objective, what explains the rest first."""
    recording = load.recording
    if load.incomplete or load.invalid:
        yield load.incomplete or load.invalid
    if recording.failure_rate > objective.failure_rate:
        reason, times = recording.failures.most_common(1)[0]
        yield (
            f"{recording.failure_rate:.1%} of the requests failed, at most {objective.failure_rate:.1%} may; "
            f"{times} of them: {reason}"
        )
    if recording.answered < (1 - objective.behind) * planned:
        yield f"{recording.answered} of {planned} requests were answered, expected {1 - objective.behind:.0%} of them"
    if growth > objective.behind:
        yield f"latency grew by {growth * 1e3:.0f} ms a second, at most {objective.behind * 1e3:g} ms count as steady"
    p99_ms = recording.percentile_ms(Stage.TOTAL, 99)
    if p99_ms is None or recording.answered < fewest_answered("p99_ms"):
        yield f"{recording.answered} requests were answered, a p99 needs {fewest_answered('p99_ms')}; probe for longer"
    elif p99_ms > objective.p99_ms:
        yield f"p99 {p99_ms:.1f} ms, objective {objective.p99_ms:g} ms"


def growth(outcomes: Sequence[Outcome], seconds: float) -> float:
    """How much longer requests take with each second: the median latency of those due in the last third over that of
    the first third, by the time between them. 0 where a third has no answer.

    In a queue that is offered `x` times what it can serve, waits grow by `x - 1` seconds a second; below, by nothing.
    """
    answered = [outcome for outcome in outcomes if not outcome.problem]
    due_s = np.array([outcome.due_s for outcome in answered])
    latency_s = np.array([outcome.ended_s - outcome.due_s for outcome in answered])
    first, last = latency_s[due_s < seconds / 3], latency_s[due_s >= seconds * 2 / 3]
    if not len(first) or not len(last):
        return 0.0
    return float((np.median(last) - np.median(first)) / (seconds * 2 / 3))
