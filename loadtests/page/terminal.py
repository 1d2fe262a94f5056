"""A page without its figures, in columns."""

from __future__ import annotations

from loadtests.page.content import Page, Table


def text(page: Page) -> str:
    lines = [f"{page.title}: {page.subtitle}" if page.subtitle else page.title, ""]
    lines += [f"! {alarm}" for alarm in page.alarms]
    lines += [page.banner.headline, *(f"  {reason}" for reason in page.banner.reasons)]
    for section in page.sections:
        for table in section.tables:
            lines += ["", *columns(table)]
    return "\n".join(printable(line.rstrip()) for line in lines)


def columns(table: Table) -> list[str]:
    """The marked row has a star."""
    rows = [["", *table.head], *([" *"[number == table.marked], *row] for number, row in enumerate(table.rows))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    align = f"l{table.align}"
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, align, strict=True)
        )
        for row in rows
    ]


def printable(line: str) -> str:
    """What a service sent may hold a terminal's control characters."""
    return "".join(each if each.isprintable() else "�" for each in line)
