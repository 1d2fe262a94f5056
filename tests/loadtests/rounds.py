"""Recordings whose truth is known: turns of a comparison, with latencies given and noise drawn by a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from loadtests.recording import Recording, Stage
from loadtests.results import Side, Turn

ORDERS = ((Side.A, Side.B, Side.B, Side.A), (Side.B, Side.A, Side.A, Side.B))


def recording(latencies_ms: Sequence[float], failed: int = 0) -> Recording:
    made = Recording()
    for latency in latencies_ms:
        made.keep(Stage.TOTAL, latency / 1e3)
    made.failures += {"503": failed}  # leaves 0 out
    return made


def turn(number: int, place: int, side: Side, latencies_ms: Sequence[float], failed: int = 0) -> Turn:
    return Turn(number, place, side, 1.0, recording(latencies_ms, failed))


def compared(
    rounds: int,
    factor: float = 1.0,
    noise: float = 0.03,
    seed: int = 0,
    drift: Callable[[int, int], float] | None = None,
) -> list[Turn]:
    """Eight requests a turn around 10 ms, and `factor` times that on side B. `noise` is the standard deviation of a
    round's logarithmic ratio: each turn's is the same, as a side has two, and there are two sides."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(rounds):
        for place, side in enumerate(ORDERS[number % 2]):
            middle = 10 * (factor if side is Side.B else 1) * np.exp(generator.normal(0, noise))
            middle *= drift(number, place) if drift else 1
            made.append(turn(number, place, side, middle * np.linspace(0.98, 1.02, 8)))
    return made
