"""Numbers as people read them."""

from __future__ import annotations

from loadtests.findings import Interval

NOTHING = "-"

LABELS = {
    "p50_ms": "median latency",
    "p90_ms": "p90 latency",
    "p99_ms": "p99 latency",
    "p999_ms": "p99.9 latency",
    "throughput_rps": "throughput",
    "failure_rate": "failure rate",
}
UNITS = {"ms": "ms", "rps": "req/s", "percent": "%", "points": "points"}


def label(metric: str) -> str:
    return LABELS.get(metric, metric)


def unit(name: str) -> str:
    """Of a metric or a bound, by the end of its name; empty where it has none."""
    return UNITS.get(name.rpartition("_")[2], "")


def number(value: float | None) -> str:
    """Three significant digits, or all those before the point."""
    if value is None:
        return NOTHING
    size = abs(value)
    decimals = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


def quantity(name: str, value: float | None) -> str:
    """What was measured, with its unit; rates and accuracies are shares of 1."""
    return NOTHING if value is None else with_unit(name, number(scaled(name, value)))


def bound(name: str, value: float) -> str:
    """What somebody set, as it was set."""
    return with_unit(name, f"{scaled(name, value):g}")


def interval(name: str, found: Interval | None) -> str:
    if found is None:
        return NOTHING
    low, high = (number(scaled(name, each)) for each in (found.low, found.high))
    return f"{quantity(name, found.estimate)} [{low}, {high}]"


def scaled(name: str, value: float) -> float:
    return 100 * value if is_share(name) else value


def with_unit(name: str, shown: str) -> str:
    return f"{shown} {'%' if is_share(name) else unit(name)}".rstrip()


def is_share(name: str) -> bool:
    return not unit(name) and (name == "failure_rate" or "accuracy" in name)


def is_ratio(metric: str) -> bool:
    """Failure rates are often 0 and have no ratio: their difference is shown."""
    return metric != "failure_rate"


def percent_of_change(metric: str, value: float) -> float:
    """A ratio as its distance from 1 in percent, a difference of shares in percentage points."""
    return 100 * (value - 1 if is_ratio(metric) else value)


def change_unit(metric: str) -> str:
    return "%" if is_ratio(metric) else "points"


def change(metric: str, found: Interval | None) -> str:
    if found is None:
        return NOTHING
    estimate, low, high = (percent_of_change(metric, value) for value in (found.estimate, found.low, found.high))
    decimals = 2 if high - low < 1 else 1
    signed = [f"{value:+.{decimals}f}" for value in (estimate, low, high)]
    return f"{signed[0]} {change_unit(metric)} [{signed[1]}, {signed[2]}]"
