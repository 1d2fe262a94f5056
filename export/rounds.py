"""Lanes measured in turn, so that the machine's drift meets all of them alike."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from export.progress import progress

Pixels = NDArray[np.uint8]
WARM_UP = 3  # runs of each lane that are left out
FEWEST = 6  # that an interval can be told from
Key = TypeVar("Key")


def interleaved(
    lanes: Mapping[Key, Callable[[], float]], rounds: int, turn: float, description: str
) -> dict[Key, NDArray[np.float64]]:
    """What each lane's runs take, one figure a round: the median of as many as fill `turn`, at least one.

    A lane runs once when it is called and returns what that took, in the unit of `turn`. Which comes first changes from
    round to round.
    """
    for run in lanes.values():
        for _ in range(WARM_UP):
            run()
    order = list(lanes)
    found: dict[Key, list[float]] = {key: [] for key in order}
    for number in progress(range(rounds), description, "round"):
        for place in range(len(order)):
            key = order[(number + place) % len(order)]
            taken = [lanes[key]()]
            while sum(taken) < turn:
                taken.append(lanes[key]())
            found[key].append(float(np.median(taken)))
    return {key: np.array(each) for key, each in found.items()}


def seconds_of(run: Callable[[Pixels], object], pixels: Pixels) -> float:
    """What one run takes by the clock."""
    begun = time.perf_counter()
    run(pixels)
    return time.perf_counter() - begun


def at_least_fewest(text: str) -> int:
    """A number of rounds, on a command line."""
    value = int(text)
    if value < FEWEST:
        raise argparse.ArgumentTypeError(f"{value} rounds have no interval; {FEWEST} do")
    return value
