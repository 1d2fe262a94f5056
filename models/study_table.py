"""The one table of a study, a row for each epoch of each run, and what it shows of the orderings."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from models.atomic_file import write_atomically
from models.paired import Interval, mean_difference
from models.spec import BlockOrdering
from models.study import Study, StudyRun

POST, PRE = BlockOrdering.POST_ACTIVATION, BlockOrdering.PRE_ACTIVATION
PAPERS = {  # test error in %, CIFAR-10: He et al. 2015, table 6 (110: its mean of 5); He et al. 2016, tables 2 and 3
    (20, POST): 8.75, (32, POST): 7.51, (44, POST): 7.17, (56, POST): 6.97,
    (110, POST): 6.61, (110, PRE): 6.37, (164, POST): 5.93, (164, PRE): 5.46, (1001, POST): 7.61, (1001, PRE): 4.92,
}  # fmt: skip
FIGURES = ("lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
NORM = "gradient_norm_"
STEP = 0.05  # of the default target accuracy


@dataclass(frozen=True, slots=True)
class Curve:
    """One run, epoch by epoch; `figures` maps each name to its values, gradient norms included."""

    run: StudyRun
    figures: dict[str, tuple[float, ...]]

    @property
    def epochs(self) -> int:
        return len(self.figures["test_accuracy"])

    @property
    def test_error(self) -> float:
        """In per cent, after the last epoch."""
        return 100 * (1 - self.figures["test_accuracy"][-1])

    def epochs_to(self, accuracy: float) -> int | None:
        """The first epoch that ends with this test accuracy, counted from 1; None if none does."""
        reached = (epoch for epoch, found in enumerate(self.figures["test_accuracy"], start=1) if found >= accuracy)
        return next(reached, None)


@dataclass(frozen=True, slots=True)
class Contrast:
    """A figure of both orderings at one depth over `n` seeds, and pre-activation minus post-activation."""

    depth: int
    post: tuple[float, ...]
    pre: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.post)

    @property
    def differences(self) -> tuple[float, ...]:
        return tuple(pre - post for post, pre in zip(self.post, self.pre, strict=True))

    @property
    def difference(self) -> Interval | None:
        return mean_difference(self.differences)


def read_logs(study: Study) -> list[Curve]:
    """What every run has logged so far."""
    curves = []
    for run in study.runs:
        log = study.log_of(run)
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if lines:
            figures = {name: tuple(float(line[name]) for line in lines) for name in FIGURES}
            for stage in lines[0]["gradient_norm"]:
                figures[NORM + stage] = tuple(float(line["gradient_norm"][stage]) for line in lines)
            curves.append(Curve(run, figures))
    return curves


def write_table(curves: Sequence[Curve], path: Path) -> None:
    text = io.StringIO()
    figures = list(curves[0].figures)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["depth", "ordering", "seed", "epoch", *figures])
    for curve in curves:
        for epoch in range(curve.epochs):
            values = [f"{curve.figures[name][epoch]:.6g}" for name in figures]
            writer.writerow([curve.run.depth, curve.run.ordering, curve.run.seed, epoch + 1, *values])
    write_atomically(path, text.getvalue().encode())


def read_table(path: Path) -> list[Curve]:
    rows: dict[StudyRun, list[dict[str, str]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            run = StudyRun(int(row["depth"]), BlockOrdering(row["ordering"]), int(row["seed"]))
            rows.setdefault(run, []).append(row)
    places = {"depth", "ordering", "seed", "epoch"}
    return [
        Curve(run, {name: tuple(float(row[name]) for row in lines) for name in lines[0] if name not in places})
        for run, lines in rows.items()
    ]


def contrasts(curves: Sequence[Curve], figure: Callable[[Curve], float | None]) -> list[Contrast]:
    """Depth by depth over the seeds that both orderings have finished and that have the figure."""
    longest = max(curve.epochs for curve in curves)
    values = {curve.run: figure(curve) for curve in curves if curve.epochs == longest}
    found = []
    for depth in sorted({run.depth for run in values}):
        pairs = [
            (values.get(StudyRun(depth, POST, seed)), values.get(StudyRun(depth, PRE, seed)))
            for seed in sorted({run.seed for run in values})
        ]
        both = [(post, pre) for post, pre in pairs if post is not None and pre is not None]
        if both:
            found.append(Contrast(depth, tuple(post for post, _ in both), tuple(pre for _, pre in both)))
    return found


def common_target(curves: Sequence[Curve]) -> float:
    """The largest multiple of 5 % that each of these runs has reached."""
    least = min(max(curve.figures["test_accuracy"]) for curve in curves)
    return math.floor(least / STEP + 1e-9) * STEP


def as_markdown(curves: Sequence[Curve], target: float | None) -> str:
    """The tables: test error, final training loss, epochs to a target accuracy."""
    finished = max(curve.epochs for curve in curves)
    unfinished = [curve.run for curve in curves if curve.epochs < finished]
    parts = [
        f"Test error after epoch {finished}, in %",
        table(contrasts(curves, lambda curve: curve.test_error), 2, papers=True),
        f"Mean training loss of epoch {finished}, in nats",
        table(contrasts(curves, lambda curve: curve.figures["train_loss"][-1]), 4),
    ]
    targets = {}
    for depth in sorted({curve.run.depth for curve in curves}):
        whole = [curve for curve in curves if curve.run.depth == depth and curve.epochs == finished]
        if whole:
            targets[depth] = common_target(whole) if target is None else target
    said = ", ".join(f"{value:.0%} at depth {depth}" for depth, value in targets.items())
    parts += [
        f"Epochs to a test accuracy of {said}",
        table(contrasts(curves, lambda curve: curve.epochs_to(targets[curve.run.depth])), 1),
    ]
    late = [c.run for c in curves if c.run.depth in targets and c.epochs_to(targets[c.run.depth]) is None]
    if late:
        names = ", ".join(f"{run.variant} seed {run.seed}" for run in late)
        parts.append(f"Left out of the last table with their partners, since they did not reach the target: {names}.")
    if unfinished:
        names = ", ".join(f"{run.variant} seed {run.seed}" for run in unfinished)
        parts.append(f"Left out of the tables, since unfinished: {names}.")
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Contrast], digits: int, *, papers: bool = False) -> str:
    head = ["depth", "seeds", "post-activation", "pre-activation", "pre minus post, 95 % interval", "shown"]
    lines = [[*head, "papers: post", "papers: pre"] if papers else head]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [str(row.depth), str(row.n), spread(row.post, digits), spread(row.pre, digits)]
        cells += [interval(row.difference, digits), meaning(row.difference)]
        if papers:
            cells += [str(PAPERS.get((row.depth, ordering), "")) for ordering in (POST, PRE)]
        lines.append(cells)
    every = [difference for row in rows for difference in row.differences]
    if len(rows) > 1:
        pooled = mean_difference(every)
        cells = ["all", str(len(every)), "", "", interval(pooled, digits), meaning(pooled)]
        lines.append(cells + ["", ""] * papers)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def interval(found: Interval | None, digits: int) -> str:
    if found is None:
        return "one seed"
    return f"{found.estimate:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def meaning(found: Interval | None) -> str:
    if found is None or not found.leaves_out_zero:
        return "no difference"
    return "pre higher" if found.estimate > 0 else "pre lower"
