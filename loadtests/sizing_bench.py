"""How many workers and threads suit a model and a machine: services of several sizes, in one interleaved run.

BENTOML_HOME=STORE python -m loadtests.sizing_bench resnet50-preact --sizes 1x16,4x4,8x2 --connections 48
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.command_line import positive, progress_bar
from loadtests.json_file import write_json
from loadtests.local_service import ServiceError
from loadtests.machine import machine
from loadtests.ratios import as_dict, median_over
from loadtests.results import Target
from loadtests.served import Served, TargetError, served
from loadtests.serving_bench.conditions import commit
from loadtests.serving_bench.jpegs import write_jpegs
from loadtests.serving_bench.lanes import ROUTE
from loadtests.serving_bench.plan import NETWORKS
from loadtests.serving_bench.processes import settle
from loadtests.serving_bench.report import interval
from loadtests.serving_bench.wrk import Load, WrkError, run_wrk, wrk_version
from loadtests.sizes import Lane, default_sizes, open_lanes, read_sizes

WARM_UP_S = 2
CIFAR_CROP = 32
SHOWN = ("variant", "version", "runtime", "device", "precision", "max_batch_size")
MEDIANS = ("throughput_rps", "p50_ms", "p99_ms", "cpu_us", "rss_mb")
RATIOS = ("throughput_rps", "p99_ms", "cpu_us")
OVER_FIRST = "over_the_first"


@dataclass(frozen=True, slots=True)
class Turn:
    """One lane's share of a round."""

    round: int
    lane: str
    throughput_rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # a request, of all the service's processes
    rss_mb: float
    failures: int


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    result: dict[str, Any] | None = None
    code = 0
    try:
        for result in measure(options):
            write_json(options.out, result)
    except (ServiceError, TargetError, WrkError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(f"interrupted after {result['rounds'] if result else 0} of {options.rounds} rounds", file=sys.stderr)
        code = 130
    if result is not None:
        print(as_text(result))
        print(f"report: {options.out}")
    return code


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.sizing_bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="wrk is the client; SERVING_RUNTIME and the other settings are those of the environment",
    )  # fmt: skip
    top.add_argument("variant", help="of the model store, or a tag")
    top.add_argument(
        "--sizes", type=read_sizes, default=default_sizes(), metavar="WORKERSxTHREADS,...",
        help="the first is what all others are compared with, and is measured twice; default: one worker, one "
        "for every four cores and one for every two",
    )  # fmt: skip
    top.add_argument("--connections", type=positive(int), default=16, help="of a closed workload (default: 16)")
    top.add_argument("--rounds", type=positive(int), default=40, help="of every size in turn (default: 40)")
    top.add_argument("--turn-seconds", type=positive(int), default=1, help="of a size in a round (default: 1)")
    top.add_argument("--out", type=Path, default=Path("build/bench/sizing.json"))
    return top


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is known after each round. Every service is there for the whole run, idle while another has its turn."""
    turns: list[Turn] = []
    with ExitStack() as stack:
        lanes = open_lanes(stack, options.variant, options.sizes)
        first = next(iter(lanes))
        entry = served(Target(lanes[first].url, options.variant.partition(":")[0]))
        known = {name: entry[name] for name in SHOWN} | conditions(options)
        lanes[f"{first} again"] = lanes[first]
        jpegs = stack.enter_context(pictures(entry))
        for number, round_of in enumerate(run(lanes, jpegs, options), 1):
            turns += round_of
            yield known | {"rounds": number} | found(lanes, turns) | {"turns": [asdict(turn) for turn in turns]}


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "connections": options.connections,
        "turn_seconds": options.turn_seconds,
        "client": f"{wrk_version()}, 1 thread, closed workload, keep-alive, on the same cores",
        "machine": machine(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith("SERVING_")},
        "commit": commit(),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def found(lanes: Mapping[str, Lane], turns: Sequence[Turn]) -> dict[str, Any]:
    first = next(iter(lanes))
    of = {name: [turn for turn in turns if turn.lane == name] for name in lanes}
    return {
        "lanes": {name: summary(of[name]) | {"ready_s": round(lane.ready_s, 1)} for name, lane in lanes.items()},
        OVER_FIRST: {name: ratios(of[name], of[first]) for name in lanes if name != first},
    }


@contextmanager
def pictures(entry: Served) -> Iterator[list[Path]]:
    """As large as those of the benchmark of serving for a network of this size."""
    network = NETWORKS["resnet20" if entry["preprocessing"]["crop"] == CIFAR_CROP else "resnet50"]
    with tempfile.TemporaryDirectory(prefix="sizing-bench-") as folder:
        yield write_jpegs(Path(folder), network)


def run(lanes: Mapping[str, Lane], jpegs: Sequence[Path], options: argparse.Namespace) -> Iterator[list[Turn]]:
    """Round by round. Who comes first changes."""
    names = list(lanes)
    for name in names:
        load(lanes[name], jpegs, WARM_UP_S, options.connections)
    with progress_bar(options.rounds, "measuring", "round") as progress:
        for number in range(options.rounds):
            order = [names[(number + place) % len(names)] for place in range(len(names))]
            yield [run_turn(number, name, lanes, jpegs, options) for name in order]
            progress.update()


def run_turn(
    number: int, name: str, lanes: Mapping[str, Lane], jpegs: Sequence[Path], options: argparse.Namespace
) -> Turn:
    tree = lanes[name].tree
    settle([lane.tree for lane in lanes.values()])
    before = tree.cpu_s()
    found = load(lanes[name], jpegs, options.turn_seconds, options.connections)
    answered = found.requests - found.failures.get("status", 0)
    return Turn(
        round=number, lane=name, throughput_rps=answered / found.seconds, p50_ms=found.p50_us / 1e3,
        p99_ms=found.p99_us / 1e3, cpu_us=(tree.cpu_s() - before) / max(found.requests, 1) * 1e6,
        rss_mb=tree.rss_bytes() / 1e6, failures=sum(found.failures.values()),
    )  # fmt: skip


def load(lane: Lane, jpegs: Sequence[Path], seconds: int, connections: int) -> Load:
    return run_wrk(lane.url + ROUTE, jpegs, seconds, connections)


def summary(turns: Sequence[Turn]) -> dict[str, float]:
    """Medians over rounds; failures of all."""
    medians = {name: float(np.median([getattr(turn, name) for turn in turns])) for name in MEDIANS}
    return {name: round(value, 3) for name, value in medians.items()} | {
        "failures": sum(turn.failures for turn in turns)
    }


def ratios(turns: Sequence[Turn], first: Sequence[Turn]) -> dict[str, dict[str, float] | None]:
    """Of a lane over the first, paired by round."""
    found = {}
    for name in RATIOS:
        mine, its = (np.array([getattr(turn, name) for turn in each]) for each in (turns, first))
        with np.errstate(divide="ignore", invalid="ignore"):  # who answered nothing has no ratio
            found[name] = as_dict(median_over(mine / its))
    return found


def as_text(result: Mapping[str, Any]) -> str:
    first = next(iter(result["lanes"]))
    head = f"{'':14}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us/req':>12}{'RSS MB':>9}{'ready s':>9}{'failed':>8}"
    head += "".join(f"{f'{what} over {first}':>28}" for what in ("req/s", "p99", "CPU"))
    lines = [f"{result['variant']}, {result['connections']} connections, {result['rounds']} rounds", head]
    for name, each in result["lanes"].items():
        line = f"{name:14}{each['throughput_rps']:>9.1f}{each['p50_ms']:>9.2f}{each['p99_ms']:>9.2f}"
        line += f"{each['cpu_us']:>12.0f}{each['rss_mb']:>9.0f}{each['ready_s']:>9.1f}{each['failures']:>8}"
        over = result[OVER_FIRST].get(name, {})
        lines.append(line + "".join(f"{interval(over.get(what)):>28}" for what in RATIOS))
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no service outlives the run
    sys.exit(main())
