"""Delays to inject, as text says them, in milliseconds:

`constant:100`, `exponential:20` (its mean), `lognormal:100,0.3` (median, standard deviation of the logarithm) and
`bimodal:50,200,0.1` (50, but with probability 0.1 it is 200).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log

EXPECTED = "constant:MS, exponential:MEAN_MS, lognormal:MEDIAN_MS,SIGMA or bimodal:MS,MS,PROBABILITY"


class DelayError(ValueError):
    """The text says no delay."""


@dataclass(frozen=True, slots=True)
class Delay:
    """`draw_ms` gives one delay by a generator of random numbers."""

    text: str
    draw_ms: Callable[[random.Random], float]


def read_delay(text: str) -> Delay:
    """Raises DelayError."""
    name, _, rest = text.partition(":")
    try:
        numbers = [at_least_0(part) for part in rest.split(",")]
        return Delay(text, DISTRIBUTIONS[name](*numbers))
    except (KeyError, TypeError, ValueError) as error:
        raise DelayError(f"delay {text!r}: expected {EXPECTED}") from error


def at_least_0(text: str) -> float:
    value = float(text)
    if not 0 <= value < inf:
        raise ValueError(f"{text!r} is negative or not a number")
    return value


def constant(ms: float) -> Callable[[random.Random], float]:
    return lambda _: ms


def exponential(mean_ms: float) -> Callable[[random.Random], float]:
    return lambda generator: generator.expovariate(1 / mean_ms) if mean_ms else 0.0


def lognormal(median_ms: float, sigma: float) -> Callable[[random.Random], float]:
    mu = log(median_ms)
    return lambda generator: generator.lognormvariate(mu, sigma)


def bimodal(usual_ms: float, other_ms: float, probability: float) -> Callable[[random.Random], float]:
    if probability > 1:
        raise ValueError(f"{probability:g} is no probability")
    return lambda generator: other_ms if generator.random() < probability else usual_ms


DISTRIBUTIONS: dict[str, Callable[..., Callable[[random.Random], float]]] = {
    "constant": constant, "exponential": exponential, "lognormal": lognormal, "bimodal": bimodal,
}  # fmt: skip
