"""Seconds from `bentoml serve`, or of an image from `docker run`, to ready, repeatedly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loadtests.command_line import positive
from loadtests.json_file import write_json
from loadtests.startup import measure_startup


def add(commands: Any) -> None:
    command = commands.add_parser(
        "startup",
        help="seconds from `bentoml serve`, or of an image from `docker run`, to ready, repeatedly",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("--runs", type=positive(int), default=5)
    command.add_argument(
        "--image", help="such as preflight:cpu, which `make image` makes; on two cores, without rights"
    )
    command.add_argument("--out", type=Path, default=Path("build/bench/startup.json"))


def run(options: argparse.Namespace) -> int:
    result = measure_startup(options.runs, options.image)
    write_json(options.out, result)
    spread = f"{result['least']:.2f} to {result['most']:.2f}"
    print(f"ready after {result['median']:.2f} s (median of {options.runs}, {spread})")
    print(f"report: {options.out}")
    return 0
