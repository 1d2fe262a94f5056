"""What a comparison found, and what follows from it: the forms that statistics fill and reports show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval, at the level that the comparison names."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two sides.

    `metric` is p50_ms, p90_ms, p99_ms, p999_ms, throughput_rps or failure_rate. `a` and `b` are over all rounds, None
    where too little was answered. `change` is b over a (failure_rate: b minus a), paired by round; `control` is the
    same of each side against itself. `says` is "lower", "higher", "no difference shown" or why nothing can be said.
    """

    metric: str
    a: float | None
    b: float | None
    change: Interval | None
    control: Interval | None
    says: str


class Outcome(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound from the gates file and what came of it; `found` is in the bound's unit."""

    name: str
    bound: float
    found: Interval | None
    outcome: Outcome
    reason: str


class Decision(StrEnum):
    SHIP = "ship"
    DO_NOT_SHIP = "do not ship"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Verdict:
    decision: Decision
    reasons: Sequence[str]
    gates: Sequence[Gate]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`primary` names the metric that decides. `verdict` is None where no gates were given."""

    level: float
    primary: str
    rounds: int
    differences: Sequence[Difference]
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that a capacity search tried. `holds` is whether it kept the objective; `reason` says why not.

    `invalid` says why the load was not the one planned (the generator was late), `incomplete` why it ended early.
    """

    rate_rps: float
    seconds: float
    answered: int
    throughput_rps: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    failure_rate: float
    lag_p99_ms: float | None
    holds: bool
    reason: str
    invalid: str = ""
    incomplete: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """`rate_rps` is the highest that held, `above_rps` the lowest that did not; None where none did.

    `incomplete` says why the search ended early; what it knew until then is here.
    """

    variant: str
    slo_p99_ms: float
    rate_rps: float | None
    above_rps: float | None
    probes: Sequence[Probe]
    limited_by: str  # "service", or "generator" where it could not send faster on time
    incomplete: str = ""
