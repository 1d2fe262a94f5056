"""What the service says of the variants that were measured: accuracy and parity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loadtests.page.content import Section, Table
from loadtests.page.numbers import NOTHING
from loadtests.page.reading import names, sides, target
from loadtests.results import Results

Entry = Mapping[str, Any]


def sections(results: Results) -> list[Section]:
    """Empty where `/variants` was not asked."""
    found = [target(results, side).get("served") or {} for side in sides(results)]
    if not any(found):
        return []
    rows = [[said, *(tell(entry) for entry in found)] for said, tell in LINES.items()]
    table = Table("As /variants tells it", ["", *names(results).values()], rows, "l" + "l" * len(found))
    return [Section("Accuracy and parity", tables=[table])]


def version(entry: Entry) -> str:
    return str(entry.get("version") or NOTHING)


def runtime(entry: Entry) -> str:
    return ", ".join(str(entry[key]) for key in ("runtime", "device", "precision") if entry.get(key)) or NOTHING


def weights(entry: Entry) -> str:
    if "trained" not in entry:
        return NOTHING
    return "trained" if entry["trained"] else "untrained: its answers mean nothing"


def accuracy(entry: Entry) -> str:
    return top1(entry, "accuracy", measured(entry, "accuracy"))


def training_accuracy(entry: Entry) -> str:
    return top1(entry, "training_accuracy", entry.get("training_accuracy"))


def agreement(entry: Entry) -> str:
    found = measured(entry, "parity")
    return on_data(f"{100 * found['top1_agreement']:.2f} %", found, "images") if found else missing(entry, "parity")


def logit_difference(entry: Entry) -> str:
    found = measured(entry, "parity")
    return on_data(f"{found['max_abs_logit_difference']:.2g}", found, "images") if found else missing(entry, "parity")


LINES: dict[str, Callable[[Entry], str]] = {
    "version": version,
    "runs on": runtime,
    "weights": weights,
    "accuracy as served": accuracy,
    "accuracy when it was trained": training_accuracy,
    "same top-1 as the network it came from": agreement,
    "largest difference of logits from it": logit_difference,
}


def top1(entry: Entry, name: str, found: Entry | None) -> str:
    return on_data(f"{100 * found['top1']:.2f} %", found, "data") if found else missing(entry, name)


def on_data(value: str, found: Entry, name: str) -> str:
    """A measurement with what it was measured on."""
    told = [f"{found['n']:,} images" if found.get("n") else "", str(found.get(name) or "")]
    conditions = ", ".join(each for each in told if each)
    return f"{value} ({conditions})" if conditions else value


def measured(entry: Entry, name: str) -> Entry | None:
    """Of the engine that is open, where it has its own; else of the graph."""
    return (entry.get("engine") or {}).get(name) or entry.get(name)


def missing(entry: Entry, name: str) -> str:
    reason = (entry.get("not_measured") or {}).get(name)
    return f"not measured: {reason}" if reason else "not measured"
