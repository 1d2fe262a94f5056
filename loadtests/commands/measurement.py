"""A run or a comparison, from its options to its exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from loadtests.commands.ending import RESULTS_FILE, conclude, gates_of, status
from loadtests.commands.load_options import conditions_of, payloads_of, plan_of
from loadtests.conditions import finished
from loadtests.measuring import Limits, measure
from loadtests.results import Results, Side, Target, Turn
from loadtests.served import as_served, served


def carry_out(
    options: argparse.Namespace,
    targets: Mapping[Side, Target],
    limits: Limits,
    enough: Callable[[Sequence[Turn]], bool] = lambda _: False,
) -> int:
    """What is wrong with options and targets is found before anything is measured. Raises OSError, ValueError."""
    gates = gates_of(options)
    entries = {side: served(target) for side, target in targets.items()}
    targets = {side: as_served(target, entries[side]) for side, target in targets.items()}
    images = payloads_of(options, entries)
    if Side.B in targets and (shortfall := limits.shortfall(round_s(options))):
        print(f"no difference will be shown: {shortfall}", file=sys.stderr)
    plan = plan_of(options, targets, images)
    known = conditions_of(options, plan, entries, images, limits.most)
    measured = measure(plan, images, limits, options.out, enough)
    results = Results(finished(known, measured.reason) | {"ended": measured.ended}, measured.turns)
    results.write(options.out / RESULTS_FILE)
    return status(measured, conclude(results, gates, options))


def round_s(options: argparse.Namespace) -> float:
    """The least that a round of a comparison takes."""
    return 2 * len(Side) * float(options.turn_seconds + options.warm_up_seconds)
