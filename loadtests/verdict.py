"""Whether the candidate may be rolled out: every gate against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from loadtests.accuracy import Accuracy, accuracies, comparable
from loadtests.conditions import DRIFT
from loadtests.differences import HIGHER, LOWER, NONE_SHOWN, rounds_of
from loadtests.findings import Comparison, Decision, Gate, Interval, Outcome, Verdict
from loadtests.gates import BOUNDS
from loadtests.metrics import (
    FEWEST_ROUNDS,
    LEVEL,
    MOST_FAILED,
    PERCENTILES,
    answered,
    fewest_answered,
    over_rounds,
    too_few,
    value,
)
from loadtests.results import Results, Side, Turn

EXIT_CODES = {Decision.SHIP: 0, Decision.DO_NOT_SHIP: 1, Decision.CANNOT_TELL: 3}  # 2 is argparse's
METRIC_OF = {"min_throughput_rps": "throughput_rps"}  # other gates are named as their metric


def exit_code(verdict: Verdict) -> int:
    return EXIT_CODES[verdict.decision]


def judge(gates: Mapping[str, float], results: Results, comparison: Comparison | None) -> Verdict:
    """On side B, or on A in a run of one variant. A run that ended early or was not the one planned decides nothing.

    `comparison` is that of `results`; None for a run of one variant.
    """
    level = comparison.level if comparison else results.conditions.get("level", LEVEL)
    judged = [gate(name, bound, results, comparison, level) for name, bound in gates.items()]
    outcomes = {each.outcome for each in judged}
    reasons = unsound(results)
    if reasons:
        decision = Decision.CANNOT_TELL
    elif Outcome.FAILS in outcomes:
        decision = Decision.DO_NOT_SHIP
    else:
        decision = Decision.CANNOT_TELL if Outcome.UNDECIDED in outcomes or not judged else Decision.SHIP
    if candidate(results.turns) is Side.B and not results.conditions.get("interleaved", True):
        reasons.append(DRIFT)
    return Verdict(decision, [*reasons, *(each.reason for each in judged)], judged)


def candidate(turns: Sequence[Turn]) -> Side:
    return Side.B if any(turn.side is Side.B for turn in turns) else Side.A


def unsound(results: Results) -> list[str]:
    """Why the run decides nothing."""
    reasons = []
    if not results.turns:
        reasons.append("Nothing was measured.")
    early = [results.conditions.get("incomplete", ""), *(turn.incomplete for turn in results.turns)]
    if why := next(filter(None, early), ""):
        reasons.append(f"The run is incomplete: {why}.")
    if invalid := [turn.invalid for turn in results.turns if turn.invalid]:
        reasons.append(f"{len(invalid)} of {len(results.turns)} turns had not the load that was planned: {invalid[0]}.")
    return reasons


def gate(name: str, bound: float, results: Results, comparison: Comparison | None, level: float) -> Gate:
    if name in {"min_accuracy", "max_accuracy_drop_points"}:
        found, about = accuracy_evidence(name, results)
    elif name == "max_regression_percent":
        found, about = regression(comparison)
    else:
        found, about = load_evidence(METRIC_OF.get(name, name), results.turns, level)
    kind = BOUNDS[name]
    if found is None:
        return Gate(name, bound, None, Outcome.UNDECIDED, f"{name} is undecided: {about}.")
    outcome = kind.outcome(bound, found)
    shown = f"{found.estimate:.4g}{kind.unit}"
    if found.low != found.high:
        shown += f" ({level * 100:g} % interval {found.low:.4g} to {found.high:.4g})"
    limit = f"{'at most' if kind.at_most else 'at least'} {bound:g}{kind.unit}"
    if name in PERCENTILES and outcome is Outcome.HOLDS and about:
        return Gate(name, bound, found, Outcome.UNDECIDED, f"{name} is undecided: {shown}, but {about}.")
    verb = "is undecided" if outcome is Outcome.UNDECIDED else outcome
    return Gate(name, bound, found, outcome, f"{name} {verb}: {shown}, {limit} is asked{about and f'; {about}'}.")


def load_evidence(metric: str, turns: Sequence[Turn], level: float) -> tuple[Interval | None, str]:
    """Over the candidate's rounds, and what speaks against it; or None and why there is nothing."""
    side = candidate(turns)
    found = rounds_of(turns)
    rounds = found.b if side is Side.B else found.a
    if len(rounds) < FEWEST_ROUNDS:
        return None, too_few(len(rounds))
    mine = list(chain.from_iterable(rounds))
    needed = FEWEST_ROUNDS * fewest_answered(metric)
    if answered(mine) < needed and metric in PERCENTILES:
        return None, f"{answered(mine):,} requests were answered, at least {needed:,} are needed"
    failing = value("failure_rate", mine)
    if failing is None:
        return None, "no request was sent"
    against = ""
    if metric in PERCENTILES and failing > MOST_FAILED:
        against = f"{failing:.1%} of the requests failed, and the answered ones do not stand for them"
    return over_rounds(metric, rounds, level), against


def regression(comparison: Comparison | None) -> tuple[Interval | None, str]:
    """By how many percent side B is worse than A (points, of a failure rate)."""
    if comparison is None:
        return None, "a run of one variant has nothing to compare with"
    primary = next(each for each in comparison.differences if each.metric == comparison.primary)
    if primary.change is None or primary.says not in {HIGHER, LOWER, NONE_SHOWN}:
        return None, primary.says
    none = 0.0 if primary.metric == "failure_rate" else 1.0
    estimate, low, high = (
        (end - none) * 100 for end in (primary.change.estimate, primary.change.low, primary.change.high)
    )
    if primary.metric == "throughput_rps":  # less is worse
        estimate, low, high = -estimate, -high, -low
    return Interval(estimate, low, high), f"of {primary.metric}"


def accuracy_evidence(name: str, results: Results) -> tuple[Interval | None, str]:
    """A fact of the test set that it was measured on, so that its interval is a point."""
    targets: dict[str, Any] = results.conditions["targets"]
    found = accuracies(targets[candidate(results.turns)])
    if isinstance(found, str):
        return None, found
    if name == "min_accuracy":
        return point(found[0].top1), str(found[0])
    if candidate(results.turns) is Side.A:
        return None, "a run of one variant has nothing to compare with"
    base = accuracies(targets[Side.A])
    if isinstance(base, str):
        return None, base
    pair = comparable(base, found)
    if isinstance(pair, str):
        return None, pair
    first, second = pair
    return point((first.top1 - second.top1) * 100), f"{first.top1:.2%} against {second.top1:.2%}, {shown_once(pair)}"


def shown_once(pair: tuple[Accuracy, Accuracy]) -> str:
    return " and ".join(dict.fromkeys(str(each) for each in pair))


def point(found: float) -> Interval:
    found = round(found, 9)  # 0.91 - 0.90 is no more than 1 point
    return Interval(found, found, found)
