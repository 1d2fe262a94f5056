"""Many times more requests than a service can answer: does it go on at its capacity, and tell the others at once?

python -m loadtests.overload --url http://localhost:3000/classify --image photo.jpg
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from loadtests.api_key import KeyVariableError
from loadtests.command_line import positive
from loadtests.json_file import write_json
from loadtests.load import Closed, Load, Open, run_load
from loadtests.machine import machine
from loadtests.ratios import as_dict, median_over
from loadtests.recording import Outcome
from loadtests.results import Target
from loadtests.scenario import Payload
from loadtests.schedule import read_schedule

GRACE_S = 1.0  # beyond a request's own deadline, before its client calls it unanswered
GENTLE = 0.5  # of the capacity: the load before and after
NORMAL = 1.5  # times the median latency before: what counts as back to normal
WINDOW_S = 0.5
PATIENT_S = 60.0  # who finds the capacity waits for every answer
PIECE_S = 5.0


class LoadError(RuntimeError):
    """The service was gone before the end, or answered nothing."""


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    bodies = [path.read_bytes() for path in options.image]
    requests = posts(options.url, bodies, options.deadline_ms)
    try:
        result = measure(options, requests)
    except (KeyVariableError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(options.out, result)
    print(as_text(result))
    print(f"report: {options.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--url", required=True, help="where images are posted")
    top.add_argument("--image", type=Path, nargs="+", required=True, help="JPEG files, sent in turn")
    top.add_argument("--times", type=positive(float), default=10.0, help="the capacity (default: 10)")
    top.add_argument("--seconds", type=positive(float), default=60.0, help="of overload (default: 60)")
    top.add_argument("--capacity-seconds", type=positive(float), default=20.0, help="to find it (default: 20)")
    top.add_argument("--gentle-seconds", type=positive(float), default=10.0, help="before and after (default: 10)")
    top.add_argument("--users", type=positive(int), default=16, help="that find it, in a closed workload (default: 16)")
    top.add_argument("--deadline-ms", type=positive(int), default=5000, help="of every request (default: 5000)")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--out", type=Path, default=Path("build/bench/overload.json"))
    return top


def measure(options: argparse.Namespace, payloads: Sequence[Payload]) -> dict[str, Any]:
    target, outcomes = target_of(options.url), {name: list[Outcome]() for name in ("before", "over", "after")}
    patience_s = options.deadline_ms / 1e3 + GRACE_S

    def capacity() -> float:
        """Answers a second, to clients that each wait for theirs. Raises LoadError where there are none."""
        seconds = options.capacity_seconds
        closed, warm_up_s = Closed(options.users), 0.1 * seconds
        load = run_load(
            target, closed, payloads, seconds=seconds - warm_up_s, warm_up_s=warm_up_s, patience_s=PATIENT_S
        )
        if not sound(load).recording.answered:
            raise LoadError(f"{options.url} answers no request: {', '.join(load.recording.failures)}")
        return load.recording.answered / load.seconds

    def offer(kept: list[Outcome], rate_rps: float, seconds: float) -> None:
        say(f"{rate_rps:.1f} requests/s, {seconds:g} s")
        workload, keep = Open(read_schedule(f"poisson:{rate_rps}"), options.seed), kept.append
        sound(
            run_load(target, workload, payloads, seconds=seconds, warm_up_s=0, patience_s=patience_s, on_outcome=keep)
        )
        kept.sort(key=lambda outcome: outcome.due_s)

    say(f"capacity: {options.users} users, {options.capacity_seconds:g} s")
    first = capacity()
    offer(outcomes["before"], GENTLE * first, options.gentle_seconds)
    cpu = time.process_time()
    offer(outcomes["over"], options.times * first, options.seconds)
    cpu_share = (time.process_time() - cpu) / options.seconds
    offer(outcomes["after"], GENTLE * first, options.gentle_seconds)
    say("capacity again")
    return summary(options, (first, capacity()), **outcomes) | {
        "client_cpu_share": cpu_share,
        "image_bytes": [len(payload.body) for payload in payloads],
        "machine": machine(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def posts(url: str, bodies: Sequence[bytes], timeout_ms: int) -> list[Payload]:
    """With their deadline; any answer of 200 will do."""
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    headers = {"content-type": "image/jpeg", "x-request-timeout-ms": str(timeout_ms)}
    return [Payload(body, headers, path, answered="") for body in bodies]


def target_of(url: str) -> Target:
    parts = urlsplit(url)
    return Target(f"{parts.scheme}://{parts.netloc}", variant="")


def sound(load: Load) -> Load:
    """Raises LoadError: what a load that ended early shows is no capacity and no goodput."""
    if load.incomplete:
        raise LoadError(load.incomplete)
    return load


def summary(
    options: argparse.Namespace,
    capacities: tuple[float, float],
    before: list[Outcome],
    over: list[Outcome],
    after: list[Outcome],
) -> dict[str, Any]:
    """`capacities` are the one before and the one after; goodput is judged in pieces against their mean."""
    capacity = float(np.mean(capacities))
    accepted = np.array([latency_s(outcome) for outcome in over if outcome.status == 200])
    refused = np.array([latency_s(outcome) for outcome in over if outcome.status == 429])
    in_time = [outcome for outcome in over if outcome.status == 200 and outcome.ended_s <= options.seconds]
    lag = np.array([outcome.sent_s - outcome.due_s for outcome in over])
    usual = float(np.median([latency_s(outcome) for outcome in before]))
    return {
        "capacity_rps": capacity,
        "capacity_before_and_after_rps": capacities,
        "offered_rps": len(over) / options.seconds,
        "seconds": options.seconds,
        "deadline_ms": options.deadline_ms,
        "statuses": {str(status): count for status, count in sorted(Counter(each.status for each in over).items())},
        "problems": dict(Counter(outcome.problem for outcome in over if not outcome.status)),
        "unanswered_within_deadline": sum(
            not outcome.status or latency_s(outcome) > options.deadline_ms / 1e3 for outcome in over
        ),
        "goodput_rps": len(in_time) / options.seconds,
        "goodput_over_capacity": len(in_time) / options.seconds / capacity,
        "goodput_over_capacity_by_piece": goodput(in_time, options.seconds, capacity),
        "accepted_latency_ms": percentiles(accepted),
        "refused_latency_ms": percentiles(refused),
        "send_lag_p99_ms": float(np.percentile(lag, 99) * 1e3),
        "latency_before_p50_ms": usual * 1e3,
        "normal_after_s": back_to_normal(after, NORMAL * usual),
        "statuses_after": {str(status): count for status, count in Counter(each.status for each in after).items()},
    }


def latency_s(outcome: Outcome) -> float:
    return outcome.ended_s - outcome.due_s


def goodput(in_time: Sequence[Outcome], seconds: float, capacity: float) -> dict[str, float] | None:
    """Over pieces of the run: their median and its 95 % interval; None for a run that is too short."""
    edges = np.arange(0.0, seconds + 1e-9, PIECE_S)
    counts, _ = np.histogram([outcome.ended_s for outcome in in_time], edges)
    return as_dict(median_over(counts / PIECE_S / capacity))


def percentiles(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float] | None:
    if not len(seconds):
        return None
    return {f"p{point}": float(np.percentile(seconds, point) * 1e3) for point in (50, 99, 100)}


def back_to_normal(after: Sequence[Outcome], most_s: float) -> float | None:
    """The beginning of the first two windows in a row whose medians are at most `most_s`; None if there are none.

    A slow window after those is no overload's: where requests come at random, some come together.
    """
    windows: dict[int, list[float]] = {}
    for each in after:
        windows.setdefault(int(each.due_s / WINDOW_S), []).append(latency_s(each) if each.status == 200 else np.inf)
    normal = [(number, np.median(latencies) <= most_s) for number, latencies in sorted(windows.items())]
    for (number, is_normal), (_, stays_normal) in pairwise(normal):
        if is_normal and stays_normal:
            return number * WINDOW_S
    return None


def as_text(result: dict[str, Any]) -> str:
    accepted, refused = result["accepted_latency_ms"] or {}, result["refused_latency_ms"] or {}
    lines = [
        f"capacity {result['capacity_rps']:.1f} requests/s (before and after "
        f"{' and '.join(f'{each:.1f}' for each in result['capacity_before_and_after_rps'])}); "
        f"offered {result['offered_rps']:.1f}, "
        f"{result['offered_rps'] / result['capacity_rps']:.1f} times as many, for {result['seconds']:g} s",
        f"goodput {result['goodput_rps']:.1f} requests/s, {result['goodput_over_capacity']:.1%} of the capacity; "
        f"by pieces of {PIECE_S:g} s {as_interval(result['goodput_over_capacity_by_piece'])}",
        f"answers by status {result['statuses']}, none came: {result['problems'] or 0}, "
        f"not within {result['deadline_ms']} ms: {result['unanswered_within_deadline']}",
        f"accepted: p50 {accepted.get('p50', 0):.0f}, p99 {accepted.get('p99', 0):.0f} ms; "
        f"refused: p50 {refused.get('p50', 0):.1f}, p99 {refused.get('p99', 0):.1f} ms",
        f"back to normal {result['normal_after_s']} s after (usual p50 {result['latency_before_p50_ms']:.0f} ms)",
        f"the client was late by {result['send_lag_p99_ms']:.1f} ms at p99, "
        f"and took {result['client_cpu_share']:.2f} of a core",
    ]
    return "\n".join(lines)


def as_interval(found: dict[str, float] | None) -> str:
    return "too few" if found is None else f"{found['median']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
