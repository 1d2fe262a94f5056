"""How fast one process sends on time, beside Locust's own closed-loop FastHttpUser and beside wrk.

    python -m loadtests.generator_bench

All post the same JPEGs to a server in another process that answers a constant. Each round finds the rate of
FastHttpUser, the best of a few numbers of users; climbs a ladder of arrival rates, multiples of that rate, as long as
the p99 send lag stays within its bound; and takes wrk's rate where it is installed. The bound: the highest rate on time
is at least 0.6 of FastHttpUser's.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant, task
from locust.env import Environment

from loadtests.command_line import positive, progress_bar
from loadtests.json_file import write_json
from loadtests.load import Open, run_load
from loadtests.local_service import local_server
from loadtests.machine import machine
from loadtests.recording import Stage
from loadtests.results import Target
from loadtests.scenario import Payload, payloads
from loadtests.schedule import read_schedule
from loadtests.serving_bench.wrk import WrkError, run_wrk, wrk_version

BOUND = 0.6  # of FastHttpUser's rate
MAX_LAG_MS = 5.0
USERS = (4, 8, 16)
LADDER = (0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # times FastHttpUser's rate
WARM_UP = 0.1  # of a turn, before it
VARIANT = "trivial"


@dataclass(frozen=True, slots=True)
class Rung:
    """One arrival rate of the ladder. It holds where every request was answered and the lag kept its bound."""

    times: float
    rate_rps: float
    answered_rps: float
    lag_p50_ms: float
    lag_p99_ms: float
    holds: bool


@dataclass(frozen=True, slots=True)
class Round:
    closed_rps: dict[int, float]  # FastHttpUser's, by number of users
    rungs: list[Rung]
    wrk_rps: float | None

    @property
    def locust_rps(self) -> float:
        return max(self.closed_rps.values())

    @property
    def on_time_rps(self) -> float:
        """0 where no rung held."""
        return max((rung.rate_rps for rung in self.rungs if rung.holds), default=0.0)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    rounds: list[Round] = []
    with local_server(server_command) as server, progress_bar(options.rounds, "measuring", "round") as progress:
        target, images = Target(server.url, VARIANT), payloads()
        try:
            for number in range(options.rounds):
                rounds.append(measure_round(target, images, options.turn_seconds, number))
                progress.update()
        except KeyboardInterrupt:
            print("interrupted; the rounds so far follow", file=sys.stderr)
    if not rounds:
        return 130
    result = summary(options, rounds, [len(image.body) for image in images])
    write_json(options.out, result)
    print(as_text(result))
    print(f"report: {options.out}")
    return 0 if result["holds"] else 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.generator_bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--rounds", type=positive(int), default=6, help="(default: 6)")
    top.add_argument("--turn-seconds", type=positive(float), default=3.0, help="of each rate (default: 3)")
    top.add_argument("--out", type=Path, default=Path("build/bench/generator.json"))
    return top


def server_command(port: int) -> list[str]:
    return [sys.executable, "-m", "loadtests.trivial_server", str(port)]


def measure_round(target: Target, images: Sequence[Payload], seconds: float, number: int) -> Round:
    """FastHttpUser and wrk swap places from round to round, so that the machine's drift meets both alike."""
    wrk_first = number % 2 == 1
    wrk_rps = measure_wrk(target, images, seconds) if wrk_first else None
    closed_rps = {users: closed_rate(target, images, users, seconds) for users in USERS}
    rungs: list[Rung] = []
    for times in LADDER:
        rungs.append(climb(target, images, times, times * max(closed_rps.values()), seconds))
        if not rungs[-1].holds:
            break
    return Round(closed_rps, rungs, wrk_rps if wrk_first else measure_wrk(target, images, seconds))


def closed_rate(target: Target, images: Sequence[Payload], users: int, seconds: float) -> float:
    """Answers a second to Locust's FastHttpUser, which checks and records nothing of its own here."""
    bodies = itertools.cycle(images)

    class Closed(FastHttpUser):
        wait_time = constant(0)

        @task
        def post(self) -> None:
            image = next(bodies)
            path = image.path.format(variant=VARIANT)
            self.client.post(path, data=image.body, headers=dict(image.headers), name=VARIANT)  # type: ignore[arg-type]

    environment = Environment(user_classes=[Closed], host=target.host)
    runner = environment.create_local_runner()
    try:
        runner.start(users, spawn_rate=users, wait=True)
        gevent.sleep(WARM_UP * seconds)
        before, begun = environment.stats.total.num_requests, time.perf_counter()
        gevent.sleep(seconds)
        after, ended = environment.stats.total.num_requests, time.perf_counter()
    finally:
        runner.quit()
    if environment.stats.total.num_failures:
        raise RuntimeError(f"{environment.stats.total.num_failures} requests of FastHttpUser failed; expected none")
    return (after - before) / (ended - begun)


def climb(target: Target, images: Sequence[Payload], times: float, rate_rps: float, seconds: float) -> Rung:
    workload = Open(read_schedule(f"poisson:{rate_rps}"), seed=0)
    load = run_load(target, workload, images, seconds=seconds, warm_up_s=WARM_UP * seconds, max_lag_ms=MAX_LAG_MS)
    found = load.recording
    p50, p99 = (found.percentile_ms(Stage.LAG, point) or 0.0 for point in (50, 99))
    holds = not (load.invalid or load.incomplete or found.failed) and p99 < MAX_LAG_MS
    return Rung(times, rate_rps, found.answered / load.seconds, p50, p99, holds)


def measure_wrk(target: Target, images: Sequence[Payload], seconds: float) -> float | None:
    """None where it is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jpg") for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(image.body)
        try:
            load = run_wrk(f"{target.host}/", paths, max(round(seconds), 1), connections=16)
        except WrkError as error:
            print(f"without wrk: {error}", file=sys.stderr)
            return None
    return load.requests / load.seconds


def summary(options: argparse.Namespace, rounds: Sequence[Round], image_bytes: list[int]) -> dict[str, Any]:
    ratios = [each.on_time_rps / each.locust_rps for each in rounds]
    wrk = [each.wrk_rps for each in rounds if each.wrk_rps is not None]
    return {
        "measure": f"highest Poisson rate sent with a p99 lag under {MAX_LAG_MS:g} ms, over FastHttpUser's closed rate",
        "fast_http_user_rps": statistics.median(each.locust_rps for each in rounds),
        "on_time_rps": statistics.median(each.on_time_rps for each in rounds),
        "wrk_rps": statistics.median(wrk) if wrk else None,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "bound": BOUND,
        "holds": min(ratios) >= BOUND,
        "rounds": [asdict(each) for each in rounds],
        "conditions": {
            "turn_seconds": options.turn_seconds,
            "warm_up_s": WARM_UP * options.turn_seconds,
            "rounds_asked": options.rounds,
            "image_bytes": image_bytes,
            "machine": f"{machine()}; the server shares it",
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("locust", "geventhttpclient", "gevent", "httptools")},
            "wrk": wrk_version() if wrk else None,
            "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        },
    }


def as_text(result: dict[str, Any]) -> str:
    lines = [
        f"FastHttpUser, closed: {result['fast_http_user_rps']:.0f} requests/s (median of {len(result['rounds'])} rounds"
        f", each the best of {', '.join(map(str, USERS))} users)",
        *(
            f"  {times:>4g} times as fast, open: p99 lag {statistics.median(lags):.2f} ms (most {max(lags):.2f}), "
            f"on time in {held} of {len(lags)} rounds"
            for times, lags, held in by_rung(result["rounds"])
        ),
        f"on time: {result['on_time_rps']:.0f} requests/s; {result['ratio']:.2f} of FastHttpUser's rate, "
        f"{min(result['ratios']):.2f} to {max(result['ratios']):.2f}; at least {result['bound']} in every round: "
        f"{'holds' if result['holds'] else 'fails'}",
    ]
    if result["wrk_rps"] is not None:
        lines.append(f"wrk, 16 connections: {result['wrk_rps']:.0f} requests/s")
    return "\n".join(lines)


def by_rung(rounds: Sequence[dict[str, Any]]) -> list[tuple[float, list[float], int]]:
    """Times, lags at p99 in ms and how many held, of the rungs that any round climbed."""
    found = []
    for times in LADDER:
        rungs = [rung for each in rounds for rung in each["rungs"] if rung["times"] == times]
        if rungs:
            found.append((times, [rung["lag_p99_ms"] for rung in rungs], sum(rung["holds"] for rung in rungs)))
    return found


if __name__ == "__main__":
    sys.exit(main())
