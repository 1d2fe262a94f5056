"""What the page of a capacity search says; the page of a comparison holds the same section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.findings import Capacity, Probe
from loadtests.page.conditions_content import section as conditions_section
from loadtests.page.content import Banner, Page, Section, Table, Tone
from loadtests.page.figures import capacity_picture
from loadtests.page.numbers import bound, quantity


def page(capacities: Sequence[Capacity], conditions: Mapping[str, Any], *, figures: bool = True) -> Page:
    names = ", ".join(dict.fromkeys(capacity.variant for capacity in capacities))
    told = [sentence(capacity) for capacity in capacities] or ["Nothing was measured."]
    sections = [section(capacities, figures=figures)]
    if conditions:
        sections.append(conditions_section(conditions))
    banner = Banner(Tone.PLAIN, told[0], told[1:])
    finished = conditions.get("finished")
    return Page(f"Capacity of {names}", str(finished or ""), banner, alarms(capacities), sections, dict(conditions))


def sentence(capacity: Capacity) -> str:
    objective = f"p99 within {bound('slo_p99_ms', capacity.slo_p99_ms)}"
    ended = [probe for probe in capacity.probes if not probe.incomplete]
    if not ended:
        return f"Whether {capacity.variant} keeps its {objective} at any rate is not known: none was tried to its end."
    if capacity.rate_rps is None:
        tried = min(probe.rate_rps for probe in ended)
        return (
            f"{capacity.variant} keeps its {objective} at no rate that was tried, the lowest {quantity('_rps', tried)}."
        )
    said = f"{capacity.variant} keeps its {objective} up to {quantity('_rps', capacity.rate_rps)}"
    if capacity.above_rps is None:
        return f"{said}, the highest rate that was tried."
    return f"{said}, and no longer at {quantity('_rps', capacity.above_rps)}."


def alarms(capacities: Sequence[Capacity]) -> list[str]:
    early = [
        f"{each.variant}: {each.incomplete}; rates beyond were not tried." for each in capacities if each.incomplete
    ]
    return early + [
        f"{capacity.variant}: the load generator could not send faster on time, the service may take more."
        for capacity in capacities
        if capacity.limited_by == "generator"
    ]


def section(capacities: Sequence[Capacity], *, figures: bool = True) -> Section:
    drawn = capacity_picture(capacities) if figures else None
    told = [*(sentence(capacity) for capacity in capacities), *alarms(capacities)]
    return Section("Capacity", told, [drawn] if drawn else [], [probes(capacity) for capacity in capacities])


def probes(capacity: Capacity) -> Table:
    ordered = sorted(capacity.probes, key=lambda probe: probe.rate_rps)
    marked = next((row for row, probe in enumerate(ordered) if probe.rate_rps == capacity.rate_rps), None)
    head = ["offered", "answered", "p50", "p90", "p99", "failed", "p99 lag", "objective"]
    return Table(f"Rates tried on {capacity.variant}", head, [line(probe) for probe in ordered], "rrrrrrrl", marked)


def line(probe: Probe) -> list[str]:
    return [
        quantity("_rps", probe.rate_rps),
        quantity("_rps", probe.throughput_rps),
        *(quantity("_ms", value) for value in (probe.p50_ms, probe.p90_ms, probe.p99_ms)),
        quantity("failure_rate", probe.failure_rate),
        quantity("_ms", probe.lag_p99_ms),
        "holds" if probe.holds else f"fails: {probe.reason}",
    ]
