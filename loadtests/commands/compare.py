"""Compare two variants, or two saved runs: which is faster, by how much, and may the second be rolled out?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.command_line import positive
from loadtests.commands.ending import add_ending_options, conclude, gates_of
from loadtests.commands.load_options import add_load_options, add_payload_options
from loadtests.commands.measurement import carry_out
from loadtests.conditions import of_two_runs
from loadtests.measuring import Limits
from loadtests.metrics import FEWEST_ROUNDS
from loadtests.results import Results, Side, Turn
from loadtests.served import read_target
from loadtests.stopping import enough


def add(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="two variants in interleaved rounds, or two saved runs: differences, intervals, a verdict",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "sides", nargs=2, metavar="VARIANT",
        help="the base, and who is compared with it: a name, NAME@URL where served elsewhere, or results.json of a run",
    )  # fmt: skip
    add_payload_options(command)
    add_load_options(command)
    group = command.add_argument_group("when it ends")
    group.add_argument("--rounds", type=positive(int), default=100, help="of four turns, at most")
    group.add_argument("--max-seconds", type=positive(float), default=240.0, help="after which no round begins")
    group.add_argument(
        "--within-percent",
        type=positive(float),
        default=2.0,
        help="half the width of an interval that is narrow enough",
    )
    add_ending_options(command, "build/comparison")


def run(options: argparse.Namespace) -> int:
    paths = [Path(side) for side in options.sides]
    if all(path.suffix == ".json" for path in paths):
        return conclude(of_two_runs(*map(Results.read, paths)), gates_of(options), options)
    if saved := [str(path) for path in paths if path.suffix == ".json"]:
        raise ValueError(f"{saved[0]} is a file and the other side is none; expected two variants, or two saved runs")

    def is_enough(turns: Sequence[Turn]) -> bool:
        return enough(turns, options.primary, options.level, options.within_percent)

    targets = {side: read_target(text, options.host) for side, text in zip(Side, options.sides, strict=True)}
    limits = Limits(min(FEWEST_ROUNDS, options.rounds), options.rounds, options.max_seconds)
    return carry_out(options, targets, limits, is_enough)
