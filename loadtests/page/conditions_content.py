"""The conditions of a measurement, a line for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtests.page.content import Section, Table

LONGEST_LIST = 8


def section(conditions: Mapping[str, Any]) -> Section:
    ordered = sorted(conditions.items(), key=lambda item: item[0] == "targets")  # the longest of them last
    rows = [[name, value] for name, value in lines(dict(ordered))]
    return Section(
        "Conditions", tables=[Table("All that was held fixed", ["condition", "value"], rows, "ll")], folded=True
    )


def lines(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested names are joined by dots; long lists are cut, with their length."""
    for key, value in content.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            yield from lines(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            head = ", ".join(str(each) for each in value[:LONGEST_LIST])
            yield name, head + (f", ... ({len(value)} in all)" if len(value) > LONGEST_LIST else "")
        else:
            yield name, "-" if value in (None, "", {}) else str(value)
