"""What a measure claims, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loadtests.findings import Outcome
from loadtests.load import Load
from loadtests.scenario import encoded

WITHIN = 0.02  # of the known answer
PAYLOADS = (encoded(b"pixels", "image/jpeg"),)  # nobody looks at them


@dataclass(frozen=True, slots=True)
class Measure:
    """`found` is fit for JSON; `said` is the same for people."""

    name: str
    claim: str
    said: str
    found: dict[str, Any]
    outcome: Outcome


def decided(holds: bool, *loads: Load) -> Outcome:
    """Nothing, by loads that were not the ones asked for."""
    if any(load.invalid or load.incomplete for load in loads):
        return Outcome.UNDECIDED
    return Outcome.HOLDS if holds else Outcome.FAILS


def reasons(*loads: Load) -> str:
    """Why they were not; empty where they were."""
    return "".join(f"; {load.invalid or load.incomplete}" for load in loads if load.invalid or load.incomplete)
