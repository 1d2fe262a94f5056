"""Turns as tables and figures need them: by side and by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from loadtests import recording
from loadtests.metrics import value
from loadtests.recording import Recording
from loadtests.results import Results, Side, Turn


def sides(results: Results) -> tuple[Side, ...]:
    """Those that were to be measured: the base alone, or both."""
    known = {*results.conditions.get("targets", {}), *(turn.side for turn in results.turns)}
    return tuple(side for side in Side if side is Side.A or side in known)


def names(results: Results) -> dict[Side, str]:
    """Of variants; told apart where both are called the same."""
    found = {side: str(target(results, side).get("variant", side.upper())) for side in sides(results)}
    if len(set(found.values())) < len(found):
        return {side: f"{name} ({side.upper()})" for side, name in found.items()}
    return found


def target(results: Results, side: Side) -> Mapping[str, Any]:
    found: Mapping[str, Any] = results.conditions.get("targets", {}).get(side) or {}
    return found


def turns_of(results: Results, side: Side) -> list[Turn]:
    return [turn for turn in results.turns if turn.side is side]


def merged(turns: Iterable[Turn]) -> Recording:
    return recording.merged(turn.recording for turn in turns)


def by_round(results: Results, side: Side, metric: str) -> dict[int, float]:
    """Rounds without a value are left out."""
    rounds: dict[int, list[Turn]] = {}
    for turn in turns_of(results, side):
        rounds.setdefault(turn.round, []).append(turn)
    found = {number: value(metric, turns) for number, turns in sorted(rounds.items())}
    return {number: each for number, each in found.items() if each is not None}
