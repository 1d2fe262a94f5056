"""Whether the lanes do the same work: only who gives our answers is compared with us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.serving_bench.lanes import Opened
from loadtests.serving_bench.plan import Lane

LARGEST_DIFFERENCE = 1e-4  # of a probability
DOES_NO_WORK = {Lane.STARLETTE}


def strangers(opened: Mapping[Lane, Opened], jpegs: Sequence[Path]) -> dict[Lane, str]:
    """The lanes that answer a picture in another way than ours, and how."""
    ours = {jpeg: opened[Lane.OURS].predictions(jpeg) for jpeg in jpegs}
    reasons = {lane: first_difference(each, ours) for lane, each in opened.items() if lane not in DOES_NO_WORK}
    return {lane: reason for lane, reason in reasons.items() if reason is not None}


def first_difference(lane: Opened, ours: Mapping[Path, Sequence[Mapping[str, Any]]]) -> str | None:
    for jpeg, expected in ours.items():
        try:
            found = difference(lane.predictions(jpeg), expected)
        except (OSError, ValueError, KeyError, TypeError) as error:  # an HTTP error, or no JSON of this form
            found = f"{type(error).__name__}: {error}"
        if found is not None:
            return f"{jpeg.name}: {found}"
    return None


def difference(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> str | None:
    """The same class first, and every class that both name as probable; equally probable ones may change places."""
    if len(found) != len(expected) or found[0]["index"] != expected[0]["index"]:
        return f"{[each['index'] for each in found]} instead of {[each['index'] for each in expected]}"
    probabilities = {each["index"]: each["probability"] for each in found}
    for each in expected:
        other = probabilities.get(each["index"])
        if other is not None and abs(other - each["probability"]) > LARGEST_DIFFERENCE:
            return f"class {each['index']} has {other} instead of {each['probability']}"
    return None
