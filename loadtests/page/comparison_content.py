"""What the page of a comparison, or of a run of one variant, says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.differences import HIGHER, LOWER, NONE_SHOWN
from loadtests.findings import Capacity, Comparison, Decision, Difference, Verdict
from loadtests.metrics import FEWEST_ROUNDS, answered, failed, too_many_failed
from loadtests.page.capacity_content import section as capacity_section
from loadtests.page.conditions_content import section as conditions_section
from loadtests.page.content import Banner, Page, Section, Table, Tone
from loadtests.page.figures import (
    change_picture,
    changes_picture,
    distribution_picture,
    percentiles_picture,
    rounds_picture,
)
from loadtests.page.numbers import bound, change, interval, label, quantity
from loadtests.page.reading import names, sides, turns_of
from loadtests.page.requests_content import generator, requests, stages
from loadtests.page.served_content import sections as served_sections
from loadtests.page.svg import Picture
from loadtests.results import Results, Side

TONES = {Decision.SHIP: Tone.GOOD, Decision.DO_NOT_SHIP: Tone.BAD, Decision.CANNOT_TELL: Tone.UNSURE}


def page(results: Results, comparison: Comparison, capacities: Sequence[Capacity]) -> Page:
    brief = summary(results, comparison)
    primary = primary_of(comparison)
    drawn = [change_picture(results, comparison, primary)] if primary and is_comparison(results) else []
    metric = comparison.primary
    shown = [
        percentiles_picture(results),
        distribution_picture(results),
        rounds_picture(results, metric),
        changes_picture(results, metric),
    ]
    sections = [
        *pictured("The difference that decides", drawn),
        differences(results, comparison),
        *pictured("Latency", shown),
        *stages(results),
        *([capacity_section(capacities)] if capacities else []),
        *gates(comparison.verdict),
        *served_sections(results),
        generator(results),
        requests(results),
        conditions_section(results.conditions),
    ]
    return Page(brief.title, brief.subtitle, brief.banner, brief.alarms, sections, results.conditions)


def summary(results: Results, comparison: Comparison) -> Page:
    """Verdict, differences and gates alone."""
    known = names(results)
    title = " against ".join(known[side] for side in reversed(known))
    number_of = f"{comparison.rounds} round{'s' * (comparison.rounds != 1)}"
    finished = results.conditions.get("finished")
    subtitle = ", ".join([number_of, *workload(results.conditions), *([str(finished)] if finished else [])])
    found = [differences(results, comparison), *gates(comparison.verdict)]
    return Page(title, subtitle, banner(results, comparison), alarms(results), found, results.conditions)


def is_comparison(results: Results) -> bool:
    return len(sides(results)) > 1


def primary_of(comparison: Comparison) -> Difference | None:
    return next((each for each in comparison.differences if each.metric == comparison.primary), None)


def workload(conditions: Mapping[str, Any]) -> list[str]:
    found = conditions.get("workload")
    if not isinstance(found, Mapping):
        return []
    load = f"{found['users']} users" if found.get("users") else found.get("schedule")
    return [" ".join(str(each) for each in (found.get("kind"), "workload,", load) if each)] if load else []


def banner(results: Results, comparison: Comparison) -> Banner:
    shown = sentence(results, comparison)
    if comparison.verdict is None:
        return Banner(Tone.PLAIN, shown, ["No gates were given: nothing is decided."])
    decision = comparison.verdict.decision
    return Banner(TONES[decision], decision.capitalize(), [*comparison.verdict.reasons, shown])


def sentence(results: Results, comparison: Comparison) -> str:
    """What the primary metric shows."""
    primary, known, metric = primary_of(comparison), names(results), label(comparison.primary)
    if primary is None:
        return f"Nothing is known of the {metric}."
    if not is_comparison(results):
        return f"{known[Side.A]}: {metric} {quantity(primary.metric, primary.a)}."
    if primary.says not in {LOWER, HIGHER}:
        subject = f"{metric.capitalize()} of {known[Side.B]} against {known[Side.A]}"
        return f"{subject}: {primary.says}.{seconds_needed(results, comparison)}"
    by = change(primary.metric, primary.change)
    return f"{metric.capitalize()} of {known[Side.B]} is {primary.says} than that of {known[Side.A]}: {by}."


def seconds_needed(results: Results, comparison: Comparison) -> str:
    """A sentence more where there were too few rounds of turns whose length is known."""
    conditions = results.conditions
    if comparison.rounds >= FEWEST_ROUNDS or not {"turn_seconds", "warm_up_seconds"} <= conditions.keys():
        return ""
    seconds = conditions["turn_seconds"] + conditions["warm_up_seconds"]
    turns = len(Side) * 2 if conditions.get("interleaved") else 1
    return f" {FEWEST_ROUNDS} rounds like these take at least {FEWEST_ROUNDS * turns * seconds:.0f} s."


def alarms(results: Results) -> list[str]:
    """Turns that were not sound, those of one side and reason together, and what too many requests failed by."""
    known = names(results)
    found: dict[tuple[Side, str, str], list[int]] = {}
    for turn in results.turns:
        for kind, reason in (("incomplete", turn.incomplete), ("invalid", turn.invalid)):
            if reason:
                found.setdefault((turn.side, kind, reason), []).append(turn.round + 1)
    total = Counter(turn.side for turn in results.turns)
    said = [
        f"{len(rounds)} of {total[side]} turns of {known[side]} {'is' if len(rounds) == 1 else 'are'} {kind} "
        f"({spans(rounds)}): {reason}"
        for (side, kind, reason), rounds in found.items()
    ]
    for side, name in known.items():
        turns = turns_of(results, side)
        if why := too_many_failed(turns):
            said.append(f"{failed(turns):,} of {failed(turns) + answered(turns):,} requests to {name} {why}")
    return said if results.turns else ["Nothing was measured: there is no turn."]


def spans(rounds: Sequence[int]) -> str:
    """Rounds 1-3, 7."""
    parts: list[list[int]] = []
    for each in sorted(set(rounds)):
        if parts and each == parts[-1][-1] + 1:
            parts[-1].append(each)
        else:
            parts.append([each])
    said = ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    return f"round{'s' if ',' in said or '-' in said else ''} {said}"


def differences(results: Results, comparison: Comparison) -> Section:
    known, level = names(results), f"{100 * comparison.level:g} %"
    found = comparison.differences
    marked = next((row for row, each in enumerate(found) if each.metric == comparison.primary), None)
    primary = primary_of(comparison)
    told_above = {primary.says} - {HIGHER, LOWER, NONE_SHOWN} if primary else set()
    if not is_comparison(results):
        rows = [[label(each.metric), quantity(each.metric, each.a)] for each in found]
        return Section("What was measured", tables=[Table("Over all turns", ["", known[Side.A]], rows, "lr", marked)])
    table = Table(
        f"Over all rounds; changes with {level} intervals",
        ["", known[Side.A], known[Side.B], "change", "A/A control", "says"],
        [
            [
                label(each.metric), quantity(each.metric, each.a), quantity(each.metric, each.b),
                change(each.metric, each.change), change(each.metric, each.control),
                "as said above" if each.says in told_above else each.says,
            ]
            for each in found
        ],
        "lrrrrl",
        marked,
    )  # fmt: skip
    told = (
        f"Only the {label(comparison.primary)}, the marked row, decides; the others are not corrected for being many. "
        "The control is each side against itself: what it strays is what this run cannot tell from nothing."
    )
    return Section("Differences", [told], tables=[table])


def gates(verdict: Verdict | None) -> list[Section]:
    if verdict is None or not verdict.gates:
        return []
    rows = [
        [each.name, bound(each.name, each.bound), interval(each.name, each.found), each.outcome.value, each.reason]
        for each in verdict.gates
    ]
    table = Table("Bounds and what came of them", ["gate", "bound", "found", "outcome", "because"], rows, "lrrll")
    return [Section("Gates", tables=[table])]


def pictured(heading: str, drawn: Sequence[Picture | None]) -> list[Section]:
    found = [each for each in drawn if each is not None]
    return [Section(heading, pictures=found)] if found else []
