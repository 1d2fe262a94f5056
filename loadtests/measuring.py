"""Rounds until what is wanted is known, with progress; whatever ends them, what was measured is kept."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from loadtests.command_line import progress_bar
from loadtests.load import late
from loadtests.metrics import FEWEST_ROUNDS
from loadtests.recording import merged
from loadtests.results import Turn
from loadtests.rounds import Plan, run_round
from loadtests.scenario import Payload

TURNS_FILE = "turns.jsonl"


class Ended(StrEnum):
    """Why no more rounds were run."""

    ENOUGH = "the interval is as narrow as was asked for"
    ROUNDS = "the rounds that were asked for are done"
    TIME = "the time is up"
    INCOMPLETE = "the service stopped answering, or another version of it answered"
    INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Measured:
    """`turns` grows while rounds are run."""

    turns: list[Turn] = field(default_factory=list)
    ended: Ended = Ended.ROUNDS

    @property
    def reason(self) -> str:
        """Why it is not whole; empty for what is."""
        if self.ended is Ended.INTERRUPTED:
            return "interrupted before the planned end"
        return next((turn.incomplete for turn in self.turns if turn.incomplete), "")

    def judge_lag(self, max_lag_ms: float) -> None:
        """Where 1 % of all requests were sent too late, no turn is sound."""
        if reason := late(merged(turn.recording for turn in self.turns), max_lag_ms):
            self.turns = [replace(turn, invalid=turn.invalid or reason) for turn in self.turns]


@dataclass(frozen=True, slots=True)
class Limits:
    """At least `fewest` rounds unless time is up, at most `most`, and no new one `seconds` after the first began."""

    fewest: int
    most: int
    seconds: float

    def shortfall(self, round_s: float) -> str:
        """Why no interval can come of rounds that take `round_s` or more; empty where one can."""
        possible = min(float(self.most), self.seconds // round_s + 1)  # the first begins at once
        if possible >= FEWEST_ROUNDS:
            return ""
        more = [f"--rounds {FEWEST_ROUNDS}"] * (self.most < FEWEST_ROUNDS)
        more += [f"--max-seconds {math.ceil(FEWEST_ROUNDS * round_s)}"] * (self.seconds < (FEWEST_ROUNDS - 1) * round_s)
        fit = f"{possible:.0f} of the {FEWEST_ROUNDS} rounds that an interval needs can be run"
        return f"{fit}; it takes {' and '.join(more)}"


def measure(
    plan: Plan,
    payloads: Sequence[Payload],
    limits: Limits,
    folder: Path,
    enough: Callable[[Sequence[Turn]], bool] = lambda _: False,
) -> Measured:
    """Every turn is in the folder's `turns.jsonl` as soon as it ends."""
    measured = Measured()
    folder.mkdir(parents=True, exist_ok=True)
    a_round = len(plan.order(0))
    until = time.monotonic() + limits.seconds
    with (folder / TURNS_FILE).open("w") as file, progress_bar(limits.most * a_round, "measuring", "turn") as progress:
        try:
            for number in range(limits.most):
                for turn in run_round(plan, number, payloads):
                    measured.turns.append(turn)
                    file.write(json.dumps(turn.to_dict()) + "\n")
                    file.flush()
                    progress.update()
                progress.total = expected(number + 1, limits, until) * a_round
                if measured.turns[-1].incomplete:
                    measured.ended = Ended.INCOMPLETE
                elif number + 1 >= limits.fewest and enough(measured.turns):
                    measured.ended = Ended.ENOUGH
                elif time.monotonic() > until:
                    measured.ended = Ended.TIME
                else:
                    continue
                break
        except KeyboardInterrupt:
            measured.ended = Ended.INTERRUPTED
            print("interrupted; what was measured follows", file=sys.stderr)
    measured.judge_lag(plan.max_lag_ms)
    return measured


def expected(done: int, limits: Limits, until: float) -> int:
    """Rounds in all, if the time limit ends them rather than their number: what the remaining time is told by."""
    if math.isinf(limits.seconds):
        return limits.most
    left = max(until - time.monotonic(), 0.0)
    return min(limits.most, max(done, round(done * limits.seconds / (limits.seconds - left))))
