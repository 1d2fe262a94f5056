"""One variant under load: its percentiles, throughput and failures, with intervals."""

from __future__ import annotations

import argparse
from typing import Any

from loadtests.command_line import positive
from loadtests.commands.ending import RESULTS_FILE, add_ending_options, conclude, gates_of, status
from loadtests.commands.load_options import (
    add_load_options,
    add_payload_options,
    conditions_of,
    payloads_of,
    plan_of,
)
from loadtests.conditions import finished
from loadtests.measuring import Limits, measure
from loadtests.results import Results, Side
from loadtests.served import read_target, served


def add(commands: Any) -> None:
    command = commands.add_parser(
        "run",
        help="one variant under load: percentiles, throughput, failures, and whether they keep given bounds",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("variant", metavar="VARIANT", help="a name, or NAME@URL")
    add_payload_options(command)
    add_load_options(command)
    command.add_argument("--turns", type=positive(int), default=30)
    add_ending_options(command, "build/run")


def run(options: argparse.Namespace) -> int:
    gates = gates_of(options)
    targets = {Side.A: read_target(options.variant, options.host)}
    entries = {side: served(target) for side, target in targets.items()}
    images = payloads_of(options, entries)
    plan = plan_of(options, targets, images)
    known = conditions_of(options, plan, entries, images, options.turns)
    measured = measure(plan, images, Limits(options.turns, options.turns, float("inf")), options.out)
    results = Results(finished(known, measured.reason) | {"ended": measured.ended}, measured.turns)
    results.write(options.out / RESULTS_FILE)
    return status(measured, conclude(results, gates, options))
