"""Options that runs, comparisons and capacity searches share: what is sent, how, and for how long."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from loadtests.command_line import positive
from loadtests.scenario import Payload, payloads, tensors
from loadtests.schedule import Schedule, ScheduleError, read_schedule
from loadtests.served import Served, input_shape


def schedule(text: str) -> Schedule:
    try:
        return read_schedule(text)
    except ScheduleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT, such as 224x224")
    return int(width), int(height)


def add_payload_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what is sent")
    group.add_argument("--images", type=Path, metavar="FOLDER", help="the images in it, in turn")
    group.add_argument(
        "--image-size", type=size, default=(224, 224), metavar="WIDTHxHEIGHT", help="of made-up JPEGs (224x224)"
    )
    group.add_argument("--image-bytes", type=positive(int), help="of made-up JPEGs, about (default: what they come to)")
    group.add_argument("--tensors", action="store_true", help="pixels by the Open Inference Protocol: nothing to decode")


def payloads_of(options: argparse.Namespace, entries: Iterable[Served]) -> Sequence[Payload]:
    """Raises OSError, TargetError."""
    if options.tensors:
        return tensors(input_shape(entries))
    return payloads(options.images, size=options.image_size, size_bytes=options.image_bytes)


def add_load_options(command: argparse.ArgumentParser, *, turn_s: float) -> None:
    group = command.add_argument_group("load")
    group.add_argument("--host", default="http://localhost:3000", help="where variants are served")
    kind = group.add_mutually_exclusive_group()
    kind.add_argument(
        "--schedule", type=schedule,
        help="open workload: poisson:RATE, constant:RATE, step:RATExSECONDS,... or trace:FILE, sent on time whatever "
        "the service does (default: poisson, at half of what 4 users get)",
    )  # fmt: skip
    kind.add_argument("--users", type=positive(int), help="closed workload: clients with one request at a time")
    group.add_argument("--seed", type=int, default=0, help="of arrivals")
    group.add_argument("--turn-seconds", type=positive(float), default=turn_s, help="recorded in each turn")
    group.add_argument("--warm-up-seconds", type=positive(float), default=0.5, help="at the head of each, left out")
    group.add_argument(
        "--max-lag-ms", type=positive(float), default=5.0,
        help="p99 of how late requests may be sent; beyond, the run is invalid: it is the load generator that was slow",
    )  # fmt: skip
