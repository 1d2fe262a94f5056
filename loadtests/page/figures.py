"""The figures of the page. Sides differ by line and marker as well as by colour."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from hdrh.histogram import HdrHistogram
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from loadtests.findings import Capacity, Comparison, Difference, Probe
from loadtests.page.numbers import (
    bound,
    change,
    change_unit,
    is_ratio,
    label,
    number,
    percent_of_change,
    quantity,
    unit,
)
from loadtests.page.reading import by_round, merged, names, sides, turns_of
from loadtests.page.svg import WIDTH_IN, Colour, Picture, picture, styled
from loadtests.recording import Recording, Stage
from loadtests.results import Results, Side

TICKS = (50.0, 90.0, 99.0, 99.9, 99.99)
SERIES = ((Colour.A, "-", "o"), (Colour.B, "--", "s"), (Colour.C, "-.", "^"), (Colour.D, ":", "D"))
LONGEST_NAME = 34
BANDS = ((Stage.QUEUE, "//"), (Stage.DECODE, "\\\\"), (Stage.INFER, ""), (None, "xx"))


def change_picture(results: Results, comparison: Comparison, primary: Difference) -> Picture | None:
    """The primary metric's change above its control, on one axis."""
    if primary.change is None:
        return None
    known = names(results)
    rows = [(f"{known[Side.B]}\nagainst {known[Side.A]}", primary.change, SERIES[1])]
    if primary.control is not None:
        rows.append(("control: each side\nagainst itself", primary.control, (Colour.MUTED, ":", "D")))
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 2.1 if len(rows) > 1 else 1.5), layout="constrained")
        axes = figure.subplots()
        for row, (_, found, (colour, _, marker)) in enumerate(rows):
            low, middle, high = (
                percent_of_change(primary.metric, each) for each in (found.low, found.estimate, found.high)
            )
            axes.plot([low, high], [row, row], color=colour, linewidth=4, solid_capstyle="butt", alpha=0.55)
            axes.plot(
                [low, low, math.nan, high, high],
                [row - 0.14, row + 0.14, math.nan, row - 0.14, row + 0.14],
                color=colour,
            )
            axes.plot(middle, row, marker, color=colour, markersize=9)
            axes.annotate(
                change(primary.metric, found),
                (middle, row),
                (0, 11),
                textcoords="offset points",
                ha="center",
                color=Colour.INK,
                bbox={"facecolor": Colour.SURFACE, "edgecolor": "none", "pad": 1},
            )
        axes.axvline(0, color=Colour.MUTED, linewidth=1)
        axes.set_yticks(range(len(rows)), [shortened(text) for text, _, _ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=Colour.INK)
        axes.set(
            ylim=(len(rows) - 0.55, -0.75), xlabel=f"change of {label(primary.metric)}, {change_unit(primary.metric)}"
        )
        axes.margins(x=0.22)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        said = f"{known[Side.B]} against {known[Side.A]}: {change(primary.metric, primary.change)}. "
        said += f"Control: {change(primary.metric, primary.control)}. Intervals at {comparison.level:.0%}."
        return picture(figure, "change", f"Change of {label(primary.metric)}", said)


def percentiles_picture(results: Results) -> Picture | None:
    """Latency over percentile: each label on the axis is a tenth of the requests of the one before (HdrHistogram)."""
    known, found = names(results), recorded(results)
    if not found:
        return None
    with styled():
        figure, axes = half()
        for side, recording in found.items():
            colour, line, marker = SERIES[list(Side).index(side)]
            answered = recording.answered
            farthest = min(max(100 * (1 - 1 / answered), 60.0), TICKS[-1])
            axis = 100 - np.geomspace(60, 100 - farthest, 160)
            marked = [each for each in TICKS if each <= farthest]
            microseconds = recording.histograms[Stage.TOTAL].get_percentile_to_value_dict([*axis, *marked])
            axes.plot(nines(axis), [microseconds[each] / 1e3 for each in axis], line, color=colour)
            axes.plot(nines(marked), [microseconds[each] / 1e3 for each in marked], marker, color=colour, markersize=6)
            axes.plot([], [], line, marker=marker, color=colour, label=shortened(known[side]))
        axes.set_xticks(nines(TICKS), [f"{each:g}" for each in TICKS])
        axes.set(xlabel="percentile of requests", ylabel="latency, ms", yscale="log")
        plain_log(axes)
        keyed(axes, len(found))
        said = "; ".join(f"{known[side]}: {spoken(recording)}" for side, recording in found.items())
        return picture(figure, "percentiles", "Latency by percentile", said)


def distribution_picture(results: Results) -> Picture | None:
    """Shares of requests by latency, in steps of equal ratio; what is beyond the 99.9th percentile is left out."""
    known, found = names(results), recorded(results)
    if not found:
        return None
    bounds = [recording.percentile_ms(Stage.TOTAL, each) or 0.0 for recording in found.values() for each in (0.1, 99.9)]
    edges = np.geomspace(max(min(bounds), 1e-3) * 0.97, max(bounds) * 1.03, 49)
    with styled():
        figure, axes = half()
        for side, recording in found.items():
            colour, line, _ = SERIES[list(Side).index(side)]
            counts = counted(recording.histograms[Stage.TOTAL], edges)
            axes.stairs(100 * counts / recording.answered, edges, color=colour, linestyle=line, linewidth=1.8)
            axes.stairs(100 * counts / recording.answered, edges, color=colour, fill=True, alpha=0.13)
            axes.plot([], [], line, color=colour, label=shortened(known[side]))
        axes.set(xlabel="latency, ms", ylabel="requests, %", xscale="log", ylim=(0, None))
        plain_log(axes)
        keyed(axes, len(found))
        said = "Shares of requests by latency. " + "; ".join(
            f"{known[side]}: half within {number(recording.percentile_ms(Stage.TOTAL, 50))} ms"
            for side, recording in found.items()
        )
        return picture(figure, "distribution", "Distribution of latency", said)


def rounds_picture(results: Results, metric: str) -> Picture | None:
    """A value of each side for each round: drift, and rounds that stray, are seen."""
    known = names(results)
    found = {side: values for side in sides(results) if (values := by_round(results, side, metric))}
    if not found:
        return None
    scale = 100 if metric == "failure_rate" else 1
    with styled():
        figure, axes = half()
        for side, values in found.items():
            colour, line, marker = SERIES[list(Side).index(side)]
            heights = [scale * each for each in values.values()]
            axes.plot(
                [each + 1 for each in values], heights, line, marker=marker, markersize=4, linewidth=1.2, color=colour,
                label=shortened(known[side]),
            )  # fmt: skip
        axes.set(xlabel="round", ylabel=f"{label(metric)}, {unit(metric) or '%'}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.margins(y=0.12)
        keyed(axes, len(found))
        said = "; ".join(
            f"{known[side]}: from {quantity(metric, min(values.values()))} to {quantity(metric, max(values.values()))}"
            f" in {len(values)} rounds"
            for side, values in found.items()
        )
        return picture(figure, "rounds", f"{label(metric).capitalize()} by round", said)


def changes_picture(results: Results, metric: str) -> Picture | None:
    """What is judged: B against A in each round."""
    if len(sides(results)) < 2:
        return None
    first, second = (by_round(results, side, metric) for side in Side)
    changes = {
        number + 1: percent_of_change(
            metric, second[number] / first[number] if is_ratio(metric) else second[number] - first[number]
        )
        for number in first.keys() & second.keys()
        if first[number] or not is_ratio(metric)
    }
    if not changes:
        return None
    known = names(results)
    with styled():
        figure, axes = half()
        axes.axhline(0, color=Colour.MUTED, linewidth=1)
        axes.vlines(list(changes), 0, list(changes.values()), color=Colour.B, linewidth=1.2, alpha=0.6)
        axes.plot(list(changes), list(changes.values()), "s", color=Colour.B, markersize=5)
        axes.set(xlabel="round", ylabel=f"change, {change_unit(metric)}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(y=0.12)
        less, title = sum(each < 0 for each in changes.values()), f"Change of {label(metric)} by round"
        said = f"{known[Side.B]} against {known[Side.A]}: lower in {less} of {len(changes)} rounds"
        return picture(figure, "changes", title, said)


def stages_of(recording: Recording) -> dict[str, float] | None:
    """Medians in ms of what the service reports, and what is left of the median of the whole; None without reports."""
    found = {
        stage.value: median
        for stage, _ in BANDS
        if stage is not None and (median := recording.percentile_ms(stage, 50)) is not None
    }
    whole = recording.percentile_ms(Stage.TOTAL, 50)
    return found | {"rest": max(whole - sum(found.values()), 0.0)} if found and whole is not None else None


def stages_picture(results: Results) -> Picture | None:
    known = names(results)
    found = {side: stages for side, recording in recorded(results).items() if (stages := stages_of(recording))}
    if not found:
        return None
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 1.6 + 0.75 * len(found)), layout="constrained")
        axes = figure.subplots()
        bands = [stage.value if stage else "rest" for stage, _ in BANDS]
        for place, (band, (_, hatch)) in enumerate(zip(bands, BANDS, strict=True)):
            for row, stages in enumerate(found.values()):
                width, before = stages.get(band, 0.0), sum(stages.get(each, 0.0) for each in bands[:place])
                axes.barh(
                    row, width, left=before, height=0.52, color=SERIES[place][0], hatch=hatch, edgecolor=Colour.SURFACE,
                    label=band if row == 0 else None,
                )  # fmt: skip
        for row, stages in enumerate(found.values()):
            axes.annotate(
                f"{number(sum(stages.values()))} ms", (sum(stages.values()), row), (6, 0), textcoords="offset points",
                va="center", color=Colour.INK,
            )  # fmt: skip
        axes.set_yticks(range(len(found)), [shortened(known[side], 22) for side in found])
        axes.tick_params(axis="y", length=0, labelcolor=Colour.INK)
        axes.set(xlabel="median, ms", ylim=(len(found) - 0.5, -0.5))
        axes.margins(x=0.16)
        axes.grid(visible=False, axis="y")
        keyed(axes, len(BANDS))
        said = "; ".join(
            f"{known[side]}: " + ", ".join(f"{band} {number(each)} ms" for band, each in stages.items())
            for side, stages in found.items()
        )
        return picture(figure, "stages", "Medians of the stages", said)


def capacity_picture(capacities: Sequence[Capacity]) -> Picture | None:
    """p99 (thick) and p50 (thin) over the rate that was offered; rates that did not hold are hollow."""
    if not any(probe.p99_ms is not None for capacity in capacities for probe in capacity.probes):
        return None
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
        axes = figure.subplots()
        for place, capacity in enumerate(capacities):
            colour, _, marker = SERIES[place % len(SERIES)]
            probes = sorted(capacity.probes, key=lambda probe: probe.rate_rps)
            rates = [probe.rate_rps for probe in probes]
            p99s, p50s = latencies(probes, "p99_ms"), latencies(probes, "p50_ms")
            axes.plot(rates, p99s, "-", color=colour)
            axes.plot(rates, p50s, ":", color=colour, linewidth=1.6)
            for heights in (p99s, p50s):
                for probe, height in zip(probes, heights, strict=True):
                    inside = colour if probe.holds else Colour.SURFACE
                    axes.plot(probe.rate_rps, height, marker, color=colour, markerfacecolor=inside, markersize=6)
            axes.plot([], [], "-", marker=marker, color=colour, label=f"{shortened(capacity.variant, 24)}, p99")
            if capacity.rate_rps is not None:
                axes.axvline(capacity.rate_rps, color=colour, linewidth=1.2, linestyle=(0, (6, 2)))
        for objective in sorted({capacity.slo_p99_ms for capacity in capacities}):
            axes.axhline(objective, color=Colour.INK, linewidth=1.2, linestyle="--")
            axes.annotate(
                f"objective: p99 {bound('_ms', objective)}", (0.01, objective), (0, 4),
                xycoords=("axes fraction", "data"), textcoords="offset points", color=Colour.INK,
            )  # fmt: skip
        axes.set(xlabel="offered rate, req/s (hollow: did not hold)", ylabel="latency, ms", yscale="log")
        plain_log(axes)
        for _, (colour, _, marker) in zip(capacities, itertools.cycle(SERIES), strict=False):
            axes.plot([], [], ":", marker=marker, color=colour, label="p50")
        for capacity, (colour, _, _) in zip(capacities, itertools.cycle(SERIES), strict=False):
            axes.plot(
                [], [], color=colour, linewidth=1.2, linestyle=(0, (6, 2)), label=quantity("_rps", capacity.rate_rps)
            )
        keyed(axes, 3)
        said = "; ".join(
            f"{capacity.variant}: p99 within {bound('_ms', capacity.slo_p99_ms)} up to "
            f"{quantity('rate_rps', capacity.rate_rps) if capacity.rate_rps else 'no rate that was tried'}"
            for capacity in capacities
        )
        return picture(figure, "capacity", "Latency over offered rate", said)


def latencies(probes: Sequence[Probe], name: str) -> list[float]:
    found: list[float | None] = [getattr(probe, name) for probe in probes]
    return [math.nan if each is None else each for each in found]


def recorded(results: Results) -> Mapping[Side, Recording]:
    found = {side: merged(turns_of(results, side)) for side in sides(results)}
    return {side: recording for side, recording in found.items() if recording.answered}


def counted(histogram: HdrHistogram, edges_ms: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(edges_ms) - 1)
    for item in histogram.get_recorded_iterator():
        place = int(np.searchsorted(edges_ms, item.value_iterated_to / 1e3)) - 1
        if 0 <= place < len(counts):
            counts[place] += item.count_at_value_iterated_to
    return counts


def nines(percentiles: Sequence[float] | np.ndarray) -> np.ndarray:
    return -np.log10(1 - np.asarray(percentiles) / 100)


def half() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
    return figure, figure.subplots()


def keyed(axes: Axes, columns: int) -> None:
    """The key above the axes, where no line crosses it."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(columns, 4),
        borderaxespad=0.2,
        handlelength=2.4,
        columnspacing=1.2,
    )


def plain_log(axes: Axes) -> None:
    """1, 2, 5, 10, 20 on the logarithmic axes."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())


def spoken(recording: Recording) -> str:
    return ", ".join(f"p{each:g} {number(recording.percentile_ms(Stage.TOTAL, each))} ms" for each in TICKS[:4])


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """Each line."""
    return "\n".join(line if len(line) <= longest else f"{line[: longest - 1]}…" for line in text.split("\n"))
