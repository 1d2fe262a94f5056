"""The page of saved results again: with other gates, or with curves of capacity beside them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loadtests.capacity_file import read_capacities
from loadtests.commands.ending import add_ending_options, conclude, gates_of
from loadtests.results import Results


def add(commands: Any) -> None:
    command = commands.add_parser(
        "report",
        help="the page of saved results again, with other gates or with curves of capacity",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("results", type=Path, metavar="RESULTS", help="results.json of a run or a comparison")
    command.add_argument("--capacity", type=Path, metavar="FILE", help="capacity.json of a search")
    add_ending_options(command, "build/report")


def run(options: argparse.Namespace) -> int:
    gates = gates_of(options)
    capacities = [] if options.capacity is None else read_capacities(options.capacity)
    results = Results.read(options.results)
    options.out.mkdir(parents=True, exist_ok=True)
    return conclude(results, gates, options, capacities)
