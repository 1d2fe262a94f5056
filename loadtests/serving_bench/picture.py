"""A run as a picture: this service over every lane, cell by cell.

python -m loadtests.serving_bench.picture build/bench/serving/serving.json --out serving.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtests.page.svg import Colour, picture, styled
from loadtests.serving_bench.plan import CEILINGS, Lane

PANELS = {
    "throughput": ("requests a second", "right: ours has more"),
    "p99": ("p99 latency", "left: ours is sooner"),
    "cpu": ("CPU time a request", "left: ours takes less"),
}
NO_WORK = Lane.STARLETTE  # decodes and infers nothing: beside it all others would be one point
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
WIDTH_IN, LINE_IN, AROUND_IN = 9.6, 0.25, 1.3


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        cells = [cell for path in options.results for cell in read(path)]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        draw(cells, options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m loadtests.serving_bench.picture", description=__doc__.splitlines()[0])
    top.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="serving.json of a run; of each its cells")
    top.add_argument("--out", type=svg, default=Path("serving.svg"), help="an .svg file")
    return top


def svg(text: str) -> Path:
    if not text.endswith(".svg"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a name that ends in .svg")
    return Path(text)


def read(path: Path) -> Sequence[Mapping[str, Any]]:
    """Its cells, of which each has ratios over some lane. Raises ValueError, OSError."""
    expected = "expected serving.json of `make bench-serving`"
    try:
        cells = json.loads(path.read_text())["cells"]
        measured = [cell for cell in cells if any(any(each.values()) for each in cell["ours_over"].values())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error!r}; {expected}") from None
    if not measured:
        raise ValueError(f"{path}: nothing in it was compared; {expected}")
    return [{**cell, "title": f"{cell['cell']}, {path.stem}"} for cell in measured]


def draw(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Medians with their 95 % intervals, as `summary` has them; a row of panels for each cell."""
    lanes = [[lane for lane in cell["ours_over"] if lane != NO_WORK] for cell in cells]
    heights = [len(each) + 1.5 for each in lanes]
    names = [cell["cell"] for cell in cells]
    titles = [cell["cell"] if names.count(cell["cell"]) == 1 else cell.get("title", cell["cell"]) for cell in cells]
    with styled():
        figure = Figure(figsize=(WIDTH_IN, AROUND_IN + LINE_IN * sum(heights)), layout="constrained")
        panels = figure.subplots(
            len(cells), len(PANELS), squeeze=False, sharex="col", sharey="row", height_ratios=heights
        )
        for row, cell in enumerate(cells):
            for axes, judged in zip(panels[row], PANELS, strict=True):
                draw_panel(axes, {lane: cell["ours_over"][lane][judged] for lane in lanes[row]}, judged)
            panels[row, 0].set_title(titles[row], loc="left", fontsize="medium")
        for axes, (name, meaning) in zip(panels[-1], PANELS.values(), strict=True):
            axes.set_xlabel(f"{name},\nours over the lane's\n({meaning})")
        drawn = picture(figure, "serving", "This service over each lane", in_words(cells))
    path.write_text(drawn.alone(), encoding="utf-8")


def draw_panel(axes: Axes, ratios: Mapping[str, Mapping[str, float] | None], judged: str) -> None:
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.tick_params(axis="y", length=0, labelcolor=Colour.INK)
    axes.set(xscale="log", ylim=(len(ratios) - 0.4, -0.6))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axvline(1, color=Colour.MUTED, linewidth=1)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    for place, (lane, ratio) in enumerate(ratios.items()):
        if ratio is None or (lane in CEILINGS and judged == "p99"):  # nobody waits for what a loop does
            continue
        colour, marker = mark(lane)
        axes.plot([ratio["low"], ratio["high"]], [place, place], color=colour, linewidth=4, alpha=0.55)
        axes.plot(ratio["median"], place, marker, color=colour, markersize=7)


def mark(lane: str) -> tuple[Colour, str]:
    if lane == Lane.OURS_AGAIN:
        return Colour.MUTED, "D"
    return (Colour.C, "^") if lane in CEILINGS else (Colour.A, "o")


def in_words(cells: Sequence[Mapping[str, Any]]) -> str:
    """For who does not see it."""
    said = []
    for cell in cells:
        ratios = {lane: found["throughput"] for lane, found in cell["ours_over"].items() if lane != NO_WORK}
        each = [f"{lane} {ratio['median']:.2f}" for lane, ratio in ratios.items() if ratio is not None]
        said.append(f"{cell['cell']}: {', '.join(each) or 'too few rounds'}")
    return f"Requests a second, ours over each lane's. {'; '.join(said)}."


if __name__ == "__main__":
    sys.exit(main())
