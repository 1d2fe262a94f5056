"""Lanes measured in turn, so that the machine's drift meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Pixels = NDArray[np.uint8]
WARM_UP = 3  # runs of each lane that are left out
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
    for number in tqdm(range(rounds), desc=description, unit="round", leave=False):
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
