"""What a rollout has to keep, in a TOML file such as

p99_ms = 50
failure_rate = 0.001
max_regression_percent = 3
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.findings import Interval, Outcome
from loadtests.input_file import read_text


class GatesError(ValueError):
    """The file holds no gates."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a gate's number is: at most, or at least, so much of `unit`; it lies above `low` and up to `high`."""

    at_most: bool
    unit: str
    low: float
    high: float
    expected: str

    def outcome(self, bound: float, found: Interval) -> Outcome:
        """Undecided where the bound is inside the interval."""
        good, bad = (found.high, found.low) if self.at_most else (-found.low, -found.high)
        bound = bound if self.at_most else -bound
        if good <= bound:
            return Outcome.HOLDS
        return Outcome.FAILS if bad > bound else Outcome.UNDECIDED


ABOVE = math.nextafter(0, -1)  # 0 itself is a bound
BOUNDS = {
    "p50_ms": Bound(True, " ms", 0, math.inf, "milliseconds, above 0"),
    "p99_ms": Bound(True, " ms", 0, math.inf, "milliseconds, above 0"),
    "failure_rate": Bound(True, "", 0, 1, "a share of all requests, above 0 (no test shows 0) and up to 1"),
    "min_throughput_rps": Bound(False, " requests/s", 0, math.inf, "answers a second, above 0"),
    "max_regression_percent": Bound(True, " %", -100, math.inf, "percent of the first variant's, above -100"),
    "min_accuracy": Bound(False, "", 0, 1, "top-1 as a share, above 0 and up to 1"),
    "max_accuracy_drop_points": Bound(True, " points", ABOVE, 100, "points of a hundred, from 0 to 100"),
}


def read_gates(path: Path) -> Mapping[str, float]:
    """Bounds by gate. Raises GatesError, InputFileError."""
    text = read_text(path, "a TOML file of bounds, such as p99_ms = 50")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise GatesError(f"{path}: not TOML: {error}") from error
    if not content:
        raise GatesError(f"{path}: no gate in it; known are {', '.join(BOUNDS)}")
    return {key: checked(path, key, found) for key, found in content.items()}


def checked(path: Path, key: str, found: object) -> float:
    if key not in BOUNDS:
        raise GatesError(f"{path}: {key}: no such gate; known are {', '.join(BOUNDS)}")
    bound = BOUNDS[key]
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not (is_number and math.isfinite(found) and bound.low < found <= bound.high):  # type: ignore[arg-type, operator]
        raise GatesError(f"{path}: {key}: found {found!r}, expected {bound.expected}")
    return float(found)  # type: ignore[arg-type]
