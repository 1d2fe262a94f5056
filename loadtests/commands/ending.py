"""How a measurement ends: what was measured on disk, what it shows on the terminal and on a page, an exit status."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loadtests.command_line import share
from loadtests.differences import compare
from loadtests.findings import Capacity, Comparison
from loadtests.gates import read_gates
from loadtests.measuring import Ended, Measured
from loadtests.metrics import LEVEL, METRICS, PRIMARY
from loadtests.page import as_text, write_report
from loadtests.results import Results, Side
from loadtests.verdict import exit_code, judge

RESULTS_FILE = "results.json"
MEASURED, NOT_KNOWN, INCOMPLETE, INTERRUPTED = 0, 3, 4, 130  # exit statuses; those of verdicts are in verdict.py


def add_ending_options(command: argparse.ArgumentParser, out: str) -> None:
    group = command.add_argument_group("what is made of it")
    group.add_argument("--primary", choices=METRICS, default=PRIMARY, help="the metric that decides")
    group.add_argument("--level", type=share(with_ends=False), default=LEVEL, help="of confidence intervals")
    group.add_argument("--gates", type=Path, metavar="FILE", help="TOML file of bounds: gives a verdict")
    group.add_argument("--out", type=Path, default=Path(out), help="folder of results and report")


def gates_of(options: argparse.Namespace) -> Mapping[str, float] | None:
    """Raises GatesError, InputFileError: before anything is measured."""
    return None if options.gates is None else read_gates(options.gates)


def conclude(
    results: Results,
    gates: Mapping[str, float] | None,
    options: argparse.Namespace,
    capacities: Sequence[Capacity] = (),
) -> int:
    """Write and show what results say; the exit status of the verdict, or without gates of whether all answered."""
    comparison = concluded(results, gates, options.primary, options.level)
    page = write_report(options.out, results, comparison, capacities)
    print(as_text(results, comparison))
    print(f"report: {page}")
    if comparison.verdict is not None:
        return exit_code(comparison.verdict)
    answers = Counter[Side]()
    for turn in results.turns:
        answers[turn.side] += turn.recording.answered
    return MEASURED if all(answers.values()) else NOT_KNOWN


def concluded(results: Results, gates: Mapping[str, float] | None, primary: str, level: float) -> Comparison:
    comparison = compare(results.turns, primary, level)
    return comparison if gates is None else replace(comparison, verdict=judge(gates, results, comparison))


def status(measured: Measured, judged: int) -> int:
    """A run that ended early says so, whatever its verdict."""
    early = {Ended.INCOMPLETE: INCOMPLETE, Ended.INTERRUPTED: INTERRUPTED}
    if measured.ended in early:
        print(measured.reason, file=sys.stderr)
    return early.get(measured.ended, judged)
