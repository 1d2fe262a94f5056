"""When requests of an open workload are due: decided before the run, by a seed, whatever the service does.

Written as text: `poisson:200` (independent arrivals, 200 a second on average), `constant:200`, `step:100x30,200x30`
(Poisson arrivals, 100 a second for 30 s, then 200 for 30 s) and `trace:FILE` (a line of seconds for each request).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loadtests.input_file import read_text


class ScheduleError(ValueError):
    """The text says no schedule, or its trace cannot be read."""


class Arrivals(StrEnum):
    POISSON = "poisson"
    CONSTANT = "constant"
    STEP = "step"
    TRACE = "trace"


@dataclass(frozen=True, slots=True)
class Step:
    """`seconds` is infinite where the run's own length ends it."""

    rate_rps: float
    seconds: float = float("inf")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, or a trace's times in seconds from the start, ascending."""

    text: str
    kind: Arrivals
    steps: tuple[Step, ...] = ()
    times_s: tuple[float, ...] = ()

    def due_s(self, seconds: float, seed: int) -> Iterator[float]:
        """Seconds from the start when requests are due, ascending, up to `seconds`."""
        return itertools.takewhile(lambda due: due < seconds, self.endless(seed))

    def endless(self, seed: int) -> Iterator[float]:
        if self.kind is Arrivals.TRACE:
            yield from self.times_s
            return
        generator, begun = random.Random(seed), 0.0  # noqa: S311  an arrival, not a secret
        for step in self.steps:
            due = begun
            for number in itertools.count(1):
                if self.kind is Arrivals.CONSTANT:
                    due = begun + number / step.rate_rps  # no sum of rounded gaps
                else:
                    due += generator.expovariate(step.rate_rps)
                if due >= begun + step.seconds:
                    break
                yield due
            begun += step.seconds


def poisson(rate_rps: float) -> Schedule:
    return read_schedule(f"{Arrivals.POISSON}:{rate_rps:g}")


def read_schedule(text: str) -> Schedule:
    """Raises ScheduleError."""
    name, _, rest = text.partition(":")
    try:
        kind = Arrivals(name)
        if kind is Arrivals.TRACE:
            return Schedule(text, kind, times_s=read_trace(Path(rest)))
        if kind is Arrivals.STEP:
            return Schedule(text, kind, tuple(read_step(part) for part in rest.split(",")))
        return Schedule(text, kind, (Step(positive(rest)),))
    except ScheduleError:
        raise
    except ValueError as error:
        expected = "poisson:RATE, constant:RATE, step:RATExSECONDS,... or trace:FILE"
        raise ScheduleError(f"schedule {text!r}: {error}; expected {expected}") from error


def read_step(text: str) -> Step:
    rate, _, seconds = text.partition("x")
    return Step(positive(rate), positive(seconds))


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive number")
    return value


def read_trace(path: Path) -> tuple[float, ...]:
    """Seconds, one a line, ascending; empty lines and what follows # are left out."""
    times: list[float] = []
    for number, line in enumerate(read_text(path, "seconds, one a line").splitlines(), 1):
        if not (entry := line.partition("#")[0].strip()):
            continue
        try:
            due = float(entry)
        except ValueError:
            raise ScheduleError(f"{path}, line {number}: {entry!r} is not a number of seconds") from None
        if not (times[-1] if times else 0.0) <= due < float("inf"):
            raise ScheduleError(f"{path}, line {number}: {due:g} s comes after {times[-1] if times else 0:g} s")
        times.append(due)
    if not times:
        raise ScheduleError(f"{path}: no arrival in it")
    return tuple(times)
