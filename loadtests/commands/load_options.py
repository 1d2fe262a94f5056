"""Options that runs, comparisons and capacity searches share: what is sent, how, and for how long."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.command_line import positive
from loadtests.conditions import conditions, input_shape
from loadtests.default_load import USERS, default_schedule
from loadtests.results import Side, Target
from loadtests.rounds import Plan
from loadtests.scenario import Payload, payloads, read_size, tensors
from loadtests.schedule import Schedule, ScheduleError, read_schedule
from loadtests.served import Served


def schedule(text: str) -> Schedule:
    try:
        return read_schedule(text)
    except ScheduleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> tuple[int, int]:
    try:
        return read_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_payload_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what is sent")
    group.add_argument("--images", type=Path, metavar="FOLDER", help="the images in it, in turn")
    group.add_argument("--image-size", type=size, metavar="WIDTHxHEIGHT", default="224x224", help="of made-up JPEGs")
    group.add_argument("--image-bytes", type=positive(int), help="about so many in each of them")
    group.add_argument(
        "--tensors", action="store_true", help="pixels by the Open Inference Protocol: nothing to decode"
    )


def payloads_of(options: argparse.Namespace, entries: Mapping[Side, Served]) -> Sequence[Payload]:
    """Raises OSError, ValueError (ConditionsError)."""
    if options.tensors:
        return tensors(input_shape({entry["variant"]: entry for entry in entries.values()}))
    return payloads(options.images, options.image_size, options.image_bytes)


def sent(options: argparse.Namespace) -> str:
    if options.tensors:
        return "tensors"
    return f"images of {options.images.name}" if options.images else "made-up JPEGs"


def add_target_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("load")
    group.add_argument("--host", default="http://localhost:3000", help="where variants are served")
    group.add_argument("--seed", type=int, default=0, help="of arrivals")
    group.add_argument(
        "--max-lag-ms", type=positive(float), default=5.0,
        help="p99 of how late requests are sent; beyond, it is the load generator that was slow, and the run invalid",
    )  # fmt: skip


def add_load_options(command: argparse.ArgumentParser) -> None:
    add_target_options(command)
    group = command.add_argument_group("workload")
    kind = group.add_mutually_exclusive_group()
    kind.add_argument(
        "--schedule", type=schedule,
        help="open: poisson:RATE, constant:RATE, step:RATExSECONDS,... or trace:FILE, sent on time whatever the "
        f"service does (without any: poisson, half of what {USERS} users get)",
    )  # fmt: skip
    kind.add_argument("--users", type=positive(int), help="closed: so many clients with one request at a time")
    group.add_argument("--turn-seconds", type=positive(float), default=1.0, help="recorded in each turn")
    group.add_argument("--warm-up-seconds", type=positive(float), default=0.3, help="at the head of each, left out")


def plan_of(options: argparse.Namespace, targets: Mapping[Side, Target], images: Sequence[Payload]) -> Plan:
    """Where no load is given, one is found. Raises TargetError."""
    load = options.schedule or options.users or default_schedule(targets.values(), images)
    return Plan(targets, load, options.seed, options.turn_seconds, options.warm_up_seconds, options.max_lag_ms)


def conditions_of(
    options: argparse.Namespace, plan: Plan, entries: Mapping[Side, Served], images: Sequence[Payload], rounds: int
) -> dict[str, Any]:
    return conditions(
        [(target, entries[side]) for side, target in plan.targets.items()],
        plan.load,
        [image.body for image in images],
        sent(options),
        seed=plan.seed,
        turn_seconds=plan.turn_s,
        warm_up_seconds=plan.warm_up_s,
        rounds=rounds,
        primary=options.primary,
        level=options.level,
    )
