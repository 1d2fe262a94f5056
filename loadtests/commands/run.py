"""One variant under load: its percentiles, throughput and failures, and whether they keep given bounds."""

from __future__ import annotations

import argparse
from typing import Any

from loadtests.command_line import positive
from loadtests.commands.ending import add_ending_options
from loadtests.commands.load_options import add_load_options, add_payload_options
from loadtests.commands.measurement import carry_out
from loadtests.measuring import Limits
from loadtests.results import Side
from loadtests.served import read_target


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
    limits = Limits(options.turns, options.turns, float("inf"))
    return carry_out(options, {Side.A: read_target(options.variant, options.host)}, limits)
