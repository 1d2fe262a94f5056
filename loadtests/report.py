"""The comparison as a table, as JSON and as a page with pictures."""

from __future__ import annotations

import html
import io
import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from loadtests.machine import machine
from loadtests.turns import Plan, Ratio, Turn, as_dict, failure_rate, latencies, ratio, verdict

PERCENTILES = (50, 90, 99)
MOST_FAILURES = 0.01  # of all requests; beyond, the answered ones do not stand for the rest
FIGURES = {"p50 latency": lambda turn: turn.p50_ms, "throughput": lambda turn: turn.throughput_rps}


def summary(plan: Plan, turns: Sequence[Turn], variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Everything that was measured, with its conditions."""
    return {
        "conditions": {
            **asdict(plan),
            "rounds_done": len({turn.round for turn in turns}),
            "workload": "closed",
            "machine": f"{machine()}; client and service may share it",
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("locust", "geventhttpclient", "numpy", "scipy")},
            "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        },
        "lanes": [lane_summary(turns, lane, name, variants[name]) for lane, name in enumerate(plan.lanes)],
        "ratios": {name: ratios(turns, name) for name in FIGURES},
    }


def lane_summary(turns: Sequence[Turn], lane: int, name: str, variant: dict[str, Any]) -> dict[str, Any]:
    mine = [turn for turn in turns if turn.lane == lane]
    values = latencies(turns, lane)
    failures = Counter(failure for turn in mine for failure in turn.failures)
    rps = [turn.throughput_rps for turn in mine]
    return {
        "variant": name,
        "version": variant["version"],
        "runtime": variant["runtime"],
        "precision": variant["precision"],
        "trained": variant["trained"],
        "accuracy": variant["accuracy"],
        "training_accuracy": variant["training_accuracy"],
        "requests": len(values),
        **{f"latency_p{p}_ms": float(np.percentile(values, p)) if len(values) else None for p in PERCENTILES},
        "throughput_rps": float(np.median(rps)) if rps else None,
        "throughput_rps_quartiles": [float(np.percentile(rps, p)) for p in (25, 75)] if rps else None,
        "failures": sum(failures.values()),
        "failure_reasons": dict(failures.most_common(5)),
    }


def ratios(turns: Sequence[Turn], name: str) -> dict[str, Any]:
    measured, control = (ratio(turns, lane, FIGURES[name]) for lane in (1, 2))
    failing = failure_rate(turns)
    return {
        "ratio": as_dict(measured),
        "control": as_dict(control),
        "verdict": verdict(measured, control)
        if failing <= MOST_FAILURES
        else f"not judged, {failing:.1%} of the requests failed",
    }


def as_text(result: dict[str, Any]) -> str:
    """The table for a terminal."""
    conditions, lanes = result["conditions"], result["lanes"]
    first, second = conditions["variants"]
    head = f"{'':28}{'p50 ms':>8}{'p90 ms':>8}{'p99 ms':>8}{'req/s':>9}{'requests':>10}{'failures':>10}{'top-1':>11}"
    lines = [head]
    for lane, label in zip(lanes, (first, second, f"{first} again"), strict=True):
        cells = [number(lane[f"latency_p{p}_ms"], 8, 2) for p in PERCENTILES]
        cells += [number(lane["throughput_rps"], 9, 0), f"{lane['requests']:>10}", f"{lane['failures']:>10}"]
        lines.append(f"{label:28}{''.join(cells)}{top1(lane):>11}")
    lines.append("")
    for name, entry in result["ratios"].items():
        measured, control = interval(entry["ratio"]), interval(entry["control"])
        lines.append(f"{name}, {second} / {first}: {measured}; A/A {control}: {entry['verdict']}")
    lines.append(
        f"{conditions['rounds_done']} rounds of {conditions['turn_s']:g} s a lane, {conditions['users']} users, "
        f"closed workload; percentiles over all requests, req/s and ratios as medians over rounds "
        f"with 95 % intervals; {conditions['machine']}"
    )
    if any("*" in top1(lane) for lane in lanes):
        lines.append("* as training recorded it: the export had no labelled data to measure the graph on")
    for lane in lanes:
        lines += [f"{lane['variant']}: {count} x {reason}" for reason, count in lane["failure_reasons"].items()]
    return "\n".join(lines)


def top1(lane: dict[str, Any]) -> str:
    """The exported graph's own accuracy, else its checkpoint's, marked."""
    if not lane["trained"]:
        return "untrained"
    if lane["accuracy"]:
        return f"{lane['accuracy']['top1']:.2%}"
    return f"{lane['training_accuracy']['top1']:.2%}*" if lane["training_accuracy"] else "-"


def number(value: float | None, width: int, digits: int) -> str:
    return f"{value:>{width}.{digits}f}" if value is not None else f"{'-':>{width}}"


def interval(entry: dict[str, float] | None) -> str:
    return f"{entry['median']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" if entry else "-"


def write_report(folder: Path, result: dict[str, Any], turns: Sequence[Turn]) -> Path:
    """Write `comparison.json` and `comparison.html`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(result, indent=2) + "\n")
    page = folder / "comparison.html"
    page.write_text(
        "<!doctype html><meta charset='utf-8'><title>Comparison</title>"
        "<style>body{font:16px system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "pre{overflow-x:auto}svg{max-width:100%;height:auto}</style>"
        f"<h1>{html.escape(' or '.join(result['conditions']['variants']))}</h1>"
        f"<pre>{html.escape(as_text(result))}</pre>{picture(result, turns)}"
    )
    return page


def picture(result: dict[str, Any], turns: Sequence[Turn]) -> str:
    """Latency distributions, and the ratios with their control, as SVG."""
    first, second = result["conditions"]["variants"]
    matplotlib.rcParams["svg.hashsalt"] = "comparison"
    figure = Figure(figsize=(11, 4), layout="constrained")
    distribution, intervals = figure.subplots(1, 2, width_ratios=(3, 2))
    for lane, (label, style) in enumerate([(first, "-"), (second, "-"), (f"{first} again", ":")]):
        values = latencies(turns, lane)
        if len(values):
            shares = np.linspace(0, 99.9, 500)
            distribution.plot(np.percentile(values, shares), shares, style, label=label)
    distribution.set(xscale="log", xlabel="latency, ms", ylabel="requests answered by then, %", ylim=(0, 100))
    distribution.xaxis.set_major_formatter(ScalarFormatter())
    distribution.xaxis.set_minor_formatter(ScalarFormatter())
    distribution.legend()
    entries = [
        (f"{name}\n{label}", Ratio(**entry[key]))
        for name, entry in result["ratios"].items()
        for key, label in (("control", "A/A"), ("ratio", f"{second} / {first}"))
        if entry[key]
    ]
    for row, (_, value) in enumerate(entries):
        spread = [[value.median - value.low], [value.high - value.median]]
        intervals.errorbar(value.median, row, xerr=spread, fmt="o", capsize=4)
    intervals.axvline(1, color="grey", linewidth=1)
    intervals.set_yticks(range(len(entries)), [label for label, _ in entries])
    intervals.set(xlabel="ratio, median over rounds and 95 % interval", ylim=(-0.6, len(entries) - 0.4))
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().partition("?>")[2]
