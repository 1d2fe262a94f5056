"""Command line of `loadtests`: compare two variants of a running service; time a service's start."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

import locust  # noqa: F401  patches the standard library for gevent, so it comes before all that uses sockets

from loadtests.command_line import positive, progress_bar
from loadtests.compare import run_rounds
from loadtests.local_service import ServiceError
from loadtests.report import as_text, summary, write_report
from loadtests.scenario import payloads, tensors
from loadtests.startup import measure_startup, write_startup
from loadtests.turns import LANES, Plan, Turn


class LoadTestError(ValueError):
    """There is nothing to measure: no service, or not these variants."""


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (LoadTestError, ServiceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "compare",
        help="interleaved rounds on two variants: latency, throughput, failures and their ratios",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=compare)
    command.add_argument("variants", nargs=2, metavar="VARIANT", help="the first is the base of the ratios")
    command.add_argument("--host", default="http://localhost:3000", help="where the service answers")
    command.add_argument("--users", type=positive(int), default=4, help="clients, each with one request at a time")
    command.add_argument("--rounds", type=positive(int), default=40)
    command.add_argument("--turn-seconds", type=positive(float), default=1.0, help="of each lane in a round")
    command.add_argument("--images", type=Path, help="folder of images to post (default: made-up 224 x 224 JPEGs)")
    command.add_argument(
        "--tensors", action="store_true", help="send pixels by the Open Inference Protocol: nothing is decoded"
    )
    command.add_argument("--out", type=Path, default=Path("build/comparison"), help="folder of the report")

    command = commands.add_parser(
        "startup",
        help="seconds from `bentoml serve` to ready, repeatedly",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=startup)
    command.add_argument("--runs", type=positive(int), default=5)
    command.add_argument("--out", type=Path, default=Path("build/bench/startup.json"))
    return top


def compare(options: argparse.Namespace) -> int:
    if not options.host.startswith(("http://", "https://")):
        raise LoadTestError(f"--host {options.host}: expected http://NAME:PORT")
    plan = Plan(options.host.rstrip("/"), tuple(options.variants), options.users, options.rounds, options.turn_seconds)
    variants = served_variants(plan)
    images = tensors(input_shape(variants)) if options.tensors else payloads(options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    turns = measure(plan, images, options.out / "turns.jsonl")
    if len(turns) < LANES:
        print("interrupted before the first round was complete; no report was written", file=sys.stderr)
        return 130
    result = summary(plan, turns, variants)
    page = write_report(options.out, result, turns)
    print(as_text(result))
    print(f"report: {page}")
    return 0


def startup(options: argparse.Namespace) -> int:
    result = measure_startup(options.runs)
    write_startup(options.out, result)
    spread = f"{result['least']:.2f} to {result['most']:.2f}"
    print(f"ready after {result['median']:.2f} s (median of {options.runs}, {spread})")
    print(f"report: {options.out}")
    return 0


def measure(plan: Plan, images: list[Any], log: Path) -> list[Turn]:
    """Run the plan; every turn is in the log as soon as it ends, and Ctrl-C keeps what there is."""
    turns: list[Turn] = []
    with log.open("w") as file, progress_bar(plan.rounds * LANES, "comparing", "turn") as progress:
        try:
            for turn in run_rounds(plan, images):
                turns.append(turn)
                file.write(json.dumps(asdict(turn)) + "\n")
                file.flush()
                progress.update()
        except KeyboardInterrupt:
            print("interrupted; the rounds so far follow", file=sys.stderr)
    return turns


def input_shape(variants: dict[str, dict[str, Any]]) -> tuple[int, ...]:
    """One image of the size that both variants take."""
    crops = {variant["preprocessing"]["crop"] for variant in variants.values()}
    if len(crops) > 1:
        raise LoadTestError(f"the variants take images of {sorted(crops)} pixels; the same tensors do not fit both")
    return (1, *crops, *crops, 3)


def served_variants(plan: Plan) -> dict[str, dict[str, Any]]:
    """What `/variants` says of the two."""
    url = f"{plan.host}/variants"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  the user's own service
            served = {variant["variant"]: variant for variant in json.load(response)["variants"]}
    except (urllib.error.URLError, http.client.HTTPException, ValueError, KeyError, TypeError, TimeoutError) as error:
        raise LoadTestError(f"{url} does not answer ({error}); start the service: make serve") from error
    missing = [name for name in plan.variants if name not in served]
    if missing:
        raise LoadTestError(f"{plan.host} serves {', '.join(served)}, not {', '.join(missing)}")
    return served


if __name__ == "__main__":
    sys.exit(main())
