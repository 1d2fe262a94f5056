"""What a load test found, for people: a page that opens offline, the same in Markdown, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.findings import Capacity, Comparison
from loadtests.page import capacity_content, comparison_content, terminal
from loadtests.page.render import write_page
from loadtests.results import Results

__all__ = ["as_text", "capacity_text", "write_capacity", "write_report"]


def write_report(folder: Path, results: Results, comparison: Comparison, capacities: Sequence[Capacity] = ()) -> Path:
    """Write `report.html`, `report.md` and its figures, `report-*.svg`; returns the page's path. Raises OSError."""
    return write_page(folder, "report", comparison_content.page(results, comparison, capacities))


def write_capacity(folder: Path, capacities: Sequence[Capacity], conditions: Mapping[str, Any]) -> Path:
    """Write `capacity.html`, `capacity.md` and its figures; returns the page's path. Raises OSError."""
    return write_page(folder, "capacity", capacity_content.page(capacities, conditions))


def as_text(results: Results, comparison: Comparison) -> str:
    """What decides, without figures and conditions."""
    return terminal.text(comparison_content.summary(results, comparison))


def capacity_text(capacities: Sequence[Capacity]) -> str:
    return terminal.text(capacity_content.page(capacities, {}, figures=False))
