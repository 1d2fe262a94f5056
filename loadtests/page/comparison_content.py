"""What the page of a comparison, or of a run of one variant, says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loadtests.findings import Capacity, Comparison, Decision, Difference, Verdict
from loadtests.page.capacity_content import section as capacity_section
from loadtests.page.conditions_content import section as conditions_section
from loadtests.page.content import Banner, Page, Section, Table, Tone
from loadtests.page.figures import (
    change_picture,
    distribution_picture,
    percentiles_picture,
    rounds_picture,
    stages_of,
    stages_picture,
)
from loadtests.page.numbers import NOTHING, change, interval, label, number, quantity, share, unit
from loadtests.page.reading import merged, names, sides, target, turns_of
from loadtests.page.svg import Picture
from loadtests.recording import Recording, Stage
from loadtests.results import Results, Side

TONES = {Decision.SHIP: Tone.GOOD, Decision.DO_NOT_SHIP: Tone.BAD, Decision.CANNOT_TELL: Tone.UNSURE}
MEASURED_ON_DATA = {"accuracy": "accuracy of the exported graph", "training_accuracy": "accuracy when it was trained"}


def page(results: Results, comparison: Comparison, capacities: Sequence[Capacity]) -> Page:
    brief = summary(results, comparison)
    primary = primary_of(comparison)
    drawn = [change_picture(results, comparison, primary)] if primary and is_comparison(results) else []
    shown = [percentiles_picture(results), distribution_picture(results), rounds_picture(results, comparison.primary)]
    sections = [
        *pictured("The difference that decides", drawn),
        *brief.sections,
        *pictured("Latency", shown),
        *stages(results),
        *([capacity_section(capacities)] if capacities else []),
        *models(results),
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
    if primary.says not in {"lower", "higher"}:
        return f"{metric.capitalize()} of {known[Side.B]} against {known[Side.A]}: {primary.says}."
    by = change(primary.metric, primary.change)
    return f"{metric.capitalize()} of {known[Side.B]} is {primary.says} than that of {known[Side.A]}: {by}."


def alarms(results: Results) -> list[str]:
    """Turns that were not sound, those of one side and reason together."""
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
    if not is_comparison(results):
        rows = [[label(each.metric), quantity(each.metric, each.a)] for each in found]
        return Section("What was measured", tables=[Table("Over all turns", ["", known[Side.A]], rows, "lr", marked)])
    table = Table(
        f"Over all rounds; changes with {level} intervals",
        ["", known[Side.A], known[Side.B], "change", "control (each against itself)", "says"],
        [
            [
                label(each.metric), quantity(each.metric, each.a), quantity(each.metric, each.b),
                change(each.metric, each.change), change(each.metric, each.control), each.says,
            ]
            for each in found
        ],
        "lrrrrl",
        marked,
    )  # fmt: skip
    told = (
        f"Only the {label(comparison.primary)}, the marked row, decides; the others are not corrected for being many."
    )
    return Section("Differences", [told], tables=[table])


def gates(verdict: Verdict | None) -> list[Section]:
    if verdict is None or not verdict.gates:
        return []
    rows = [
        [each.name, quantity(each.name, each.bound), interval(each.name, each.found), each.outcome.value, each.reason]
        for each in verdict.gates
    ]
    table = Table("Bounds and what came of them", ["gate", "bound", "found", "outcome", "because"], rows, "lrrll")
    return [Section("Gates", tables=[table])]


def pictured(heading: str, drawn: Sequence[Picture | None]) -> list[Section]:
    found = [each for each in drawn if each is not None]
    return [Section(heading, pictures=found)] if found else []


def stages(results: Results) -> list[Section]:
    drawn = stages_picture(results)
    if drawn is None:
        return []
    known = names(results)
    found = {side: stages_of(merged(turns_of(results, side))) or {} for side in sides(results)}
    bands = [Stage.QUEUE.value, Stage.DECODE.value, Stage.INFER.value, "rest"]
    rows = [[band, *(quantity("_ms", found[side].get(band)) for side in found)] for band in bands]
    told = (
        "Medians of what the service reports of answered requests; the rest is what is left of the median latency: "
        "network, HTTP, and waiting to be sent. Medians need not add up."
    )
    table = Table("Median of each stage", ["stage", *(known[side] for side in found)], rows, "l" + "r" * len(found))
    return [Section("Where the time goes", [told], [drawn], [table])]


def models(results: Results) -> list[Section]:
    """Accuracy and parity, as the service tells them."""
    served = {side: target(results, side).get("served") for side in sides(results)}
    if not any(served.values()):
        return []
    entries = {side: entry if isinstance(entry, Mapping) else {} for side, entry in served.items()}
    lines: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("version", lambda entry: str(entry.get("version", NOTHING))),
        (
            "runs on",
            lambda entry: ", ".join(str(entry[key]) for key in ("runtime", "device", "precision") if entry.get(key)),
        ),
        (
            "weights",
            lambda entry: {True: "trained", False: "untrained: answers mean nothing"}.get(
                entry.get("trained"), NOTHING
            ),
        ),
        *((said, lambda entry, name=name: accuracy(entry, name)) for name, said in MEASURED_ON_DATA.items()),
        ("same top-1 as the network it came from", lambda entry: parity(entry, "top1_agreement")),
        ("largest difference of logits from it", lambda entry: parity(entry, "max_abs_logit_difference")),
    ]
    rows = [[said, *(tell(entry) or NOTHING for entry in entries.values())] for said, tell in lines]
    table = Table("As `/variants` tells it", ["", *names(results).values()], rows, "l" + "l" * len(entries))
    return [Section("Accuracy and parity", tables=[table])]


def opened(entry: Mapping[str, Any], name: str) -> Any:
    """Of the engine that is open, where it has its own; else of the graph."""
    return (entry.get("engine") or {}).get(name) or entry.get(name)


def accuracy(entry: Mapping[str, Any], name: str) -> str:
    found = opened(entry, name)
    if not found:
        return not_measured(entry, name)
    return f"{100 * found['top1']:.2f} % ({found['correct']:,} of {found['n']:,}, {found['data']})"


def parity(entry: Mapping[str, Any], key: str) -> str:
    found = opened(entry, "parity")
    if not found:
        return not_measured(entry, "parity")
    shown = f"{100 * found[key]:.2f} %" if key == "top1_agreement" else f"{found[key]:.2g}"
    return f"{shown} ({found['n']:,} images, {found['images']})"


def not_measured(entry: Mapping[str, Any], name: str) -> str:
    reason = (entry.get("not_measured") or {}).get(name)
    return f"not measured: {reason}" if reason else "not measured"


def generator(results: Results) -> Section:
    """How late requests were sent."""
    late = [turn for turn in results.turns if turn.invalid]
    told = (
        f"In {len(late)} of {len(results.turns)} turns the load was not the planned one: their figures say as much of the "
        "generator as of the service."
        if late
        else "No turn was marked invalid for requests that were sent too late."
    )
    return Section("Was the load generator on time?", [told], tables=[
        by_side(results, "From when a request was due until it was sent", [
            ("median lag", lambda side: quantity("_ms", side.percentile_ms(Stage.LAG, 50))),
            ("p99 lag", lambda side: quantity("_ms", side.percentile_ms(Stage.LAG, 99))),
            ("longest lag", lambda side: quantity("_ms", side.percentile_ms(Stage.LAG, 100))),
        ]),
    ])  # fmt: skip


def requests(results: Results) -> Section:
    whole = merged(results.turns)
    failures = [
        (reason, lambda side, reason=reason: f"{side.failures[reason]:,}") for reason, _ in whole.failures.most_common()
    ]
    statuses = [
        (f"status {name}" if name != "none" else "no status", lambda side, name=name: f"{side.statuses[name]:,}")
        for name in sorted(whole.statuses)
    ]
    counts = by_side(results, "Requests", [
        ("answered", lambda side: f"{side.answered:,}"),
        ("failed", lambda side: f"{side.failed:,} ({share(side.failure_rate)})"),
        *statuses,
        ("megabytes sent", lambda side: number(side.sent_bytes / 1e6)),
        ("megabytes received", lambda side: number(side.received_bytes / 1e6)),
    ])  # fmt: skip
    told = [] if failures else ["No request failed."]
    return Section(
        "Requests and failures", told, tables=[counts, *([by_side(results, "Failures", failures)] if failures else [])]
    )


def by_side(results: Results, caption: str, lines: Sequence[tuple[str, Callable[[Recording], str]]]) -> Table:
    recordings = {side: merged(turns_of(results, side)) for side in sides(results)}
    rows = [[said, *(tell(recording) for recording in recordings.values())] for said, tell in lines]
    return Table(caption, ["", *names(results).values()], rows, "l" + "r" * len(recordings))
