"""A study as one table, as Markdown and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.atomic_file import write_atomically
from models.study import Study
from models.study_table import NORM, POST, PRE, Curve, as_markdown, read_logs, write_table

COLOURS = {POST: "#0072b2", PRE: "#d55e00"}  # told apart by colour-blind eyes as well (Okabe and Ito)
NAMES = {POST: "post-activation", PRE: "pre-activation"}
SHOWN = {
    "test_accuracy": "test accuracy, %",
    "test_loss": "test loss, nats",
    "train_loss": "training loss, nats",
}


def write_report(study: Study, target: float | None) -> list[str]:
    """Write `epochs.csv`, `study.md` and two pictures into the study's folder; returns what to print."""
    curves = read_logs(study)
    if not curves:
        return [f"{study.folder}: no run has finished an epoch, there is nothing to draw"]
    write_table(curves, study.folder / "epochs.csv")
    text = as_markdown(curves, target)
    recipe = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(study.recipe).items())
    recipe = recipe.removesuffix(f", seed {study.recipe.seed}")
    write_atomically(study.folder / "study.md", f"{text}\nRecipe: {recipe}.\n".encode())
    draw(curves, study.folder)
    files = ("epochs.csv", "study.md", "curves.svg", "gradients.svg")
    return [text, ", ".join(str(study.folder / name) for name in files)]


def draw(curves: Sequence[Curve], folder: Path) -> None:
    """`curves.svg` and `gradients.svg`: a line is the mean over seeds, the band reaches from the least to the most."""
    norms = [name for name in curves[0].figures if name.startswith(NORM)]
    grid(curves, SHOWN, folder / "curves.svg")
    grid(curves, {name: f"{name.removeprefix(NORM)}: gradient norm" for name in norms}, folder / "gradients.svg")


def grid(curves: Sequence[Curve], figures: dict[str, str], path: Path) -> None:
    """A row for each figure, a column for each depth."""
    depths = sorted({curve.run.depth for curve in curves})
    figure = Figure(figsize=(1.2 + 2.9 * len(depths), 0.6 + 2.1 * len(figures)), layout="constrained")
    panels = figure.subplots(len(figures), len(depths), squeeze=False, sharex=True, sharey="row")
    for column, depth in enumerate(depths):
        for row, (name, label) in enumerate(figures.items()):
            axes = panels[row, column]
            for ordering in (POST, PRE):
                draw_ordering(axes, [c for c in curves if (c.run.depth, c.run.ordering) == (depth, ordering)], name)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title(f"{depth} layers")
            if column == 0:
                axes.set_ylabel(label)
            if row == len(figures) - 1:
                axes.set_xlabel("epoch")
    panels[0, -1].legend(frameon=False, fontsize="small")
    with mpl.rc_context({"svg.hashsalt": path.name}):  # the same curves give the same file
        figure.savefig(path, metadata={"Date": None})


def draw_ordering(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    if not curves:
        return
    ordering = curves[0].run.ordering
    longest = max(curve.epochs for curve in curves)
    values = np.full((len(curves), longest), np.nan)
    for index, curve in enumerate(curves):
        values[index, : curve.epochs] = curve.figures[name]
    values *= 100 if name.endswith("accuracy") else 1
    epochs = np.arange(1, longest + 1)
    label = f"{NAMES[ordering]}, {len(curves)} seed{'s' if len(curves) > 1 else ''}"
    axes.plot(epochs, np.nanmean(values, 0), color=COLOURS[ordering], label=label)
    axes.fill_between(
        epochs, np.nanmin(values, 0), np.nanmax(values, 0), color=COLOURS[ordering], alpha=0.2, linewidth=0
    )
