"""The highest rate of arrivals that holds a latency objective, and the latency on the way there."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from loadtests.capacity import Interrupted, search
from loadtests.capacity_file import write_capacities
from loadtests.command_line import positive, share
from loadtests.commands.ending import INCOMPLETE, INTERRUPTED, MEASURED, NOT_KNOWN
from loadtests.commands.load_options import add_payload_options, add_target_options, payloads_of, sent
from loadtests.conditions import conditions, finished
from loadtests.default_load import default_schedule
from loadtests.findings import Capacity, Probe
from loadtests.page import capacity_text, write_capacity
from loadtests.probing import Objective, probe_with
from loadtests.results import Side
from loadtests.schedule import poisson
from loadtests.served import as_served, read_target, served

CAPACITY_FILE = "capacity.json"
MOST = len(Side)


def add(commands: Any) -> None:
    command = commands.add_parser(
        "capacity",
        help="the highest rate that a variant, or each of two, takes with its p99 below an objective",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("variants", nargs="+", metavar="VARIANT", help=f"up to {MOST}: a name, or NAME@URL")
    command.add_argument("--slo-p99-ms", type=positive(float), required=True, help="since requests were due")
    command.add_argument(
        "--slo-failure-rate", type=share(with_ends=True), default=0.01, help="of all requests, at most"
    )
    add_payload_options(command)
    add_target_options(command)
    group = command.add_argument_group("search")
    group.add_argument("--first-rate", type=positive(float), help="default: half of what 4 users get")
    group.add_argument("--within-percent", type=positive(float), default=5.0, help="of the rate, when it is known")
    group.add_argument("--probe-seconds", type=positive(float), default=10.0, help="of each rate, at least")
    group.add_argument(
        "--max-seconds", type=positive(float), default=math.inf, help="of each search, after which no probe begins"
    )
    command.add_argument("--out", type=Path, default=Path("build/capacity"), help="folder of results and report")


def run(options: argparse.Namespace) -> int:
    if len(options.variants) > MOST:
        raise ValueError(f"{len(options.variants)} variants, expected up to {MOST}; search them one after the other")
    targets = {side: read_target(text, options.host) for side, text in zip(Side, options.variants, strict=False)}
    entries = {side: served(target) for side, target in targets.items()}
    targets = {side: as_served(target, entries[side]) for side, target in targets.items()}
    images = payloads_of(options, entries)
    load = poisson(options.first_rate) if options.first_rate else default_schedule(targets.values(), images)
    first_rate = load.steps[0].rate_rps
    known = conditions(
        [(target, entries[side]) for side, target in targets.items()], load, [image.body for image in images],
        sent(options), seed=options.seed, turn_seconds=options.probe_seconds, warm_up_seconds=1.0, rounds=0,
    )  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    objective = Objective(options.slo_p99_ms, options.slo_failure_rate)
    capacities: list[Capacity] = []
    early = MEASURED
    for target in targets.values():
        probe = probe_with(target, images, objective, seed=options.seed, max_lag_ms=options.max_lag_ms)
        print(f"{target.variant}: searching from {first_rate:g} requests/s", file=sys.stderr)
        try:
            found = search(
                probe, options.slo_p99_ms, variant=target.variant, first_rate=first_rate,
                precision=options.within_percent / 100, seconds=options.probe_seconds,
                max_seconds=options.max_seconds, on_probe=tell,
            )  # fmt: skip
        except Interrupted as error:
            found, early = error.capacity, INTERRUPTED
        capacities.append(found)
        write_capacities(options.out / CAPACITY_FILE, capacities, finished(known, found.incomplete))
        if found.probes and found.probes[-1].incomplete:
            early = INCOMPLETE
        if early:
            break
    reasons = [f"{each.variant}: {each.incomplete}" for each in capacities if each.incomplete]
    page = write_capacity(options.out, capacities, finished(known, "; ".join(reasons)))
    print(capacity_text(capacities))
    print(f"report: {page}")
    for reason in reasons:
        print(reason, file=sys.stderr)
    return early or (NOT_KNOWN if reasons else MEASURED)


def tell(probe: Probe) -> None:
    p99 = "-" if probe.p99_ms is None else f"{probe.p99_ms:.1f} ms"
    holds = "holds" if probe.holds else f"does not hold: {probe.reason}"
    print(
        f"{probe.rate_rps:9.1f} requests/s for {probe.seconds:.0f} s: p99 {p99}, {holds}", file=sys.stderr, flush=True
    )
