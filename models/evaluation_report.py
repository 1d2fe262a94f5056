"""An evaluation as a table, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from models.evaluation import BINS, Answers, calibration_error, class_rows, confidence_bins
from models.paired import Interval, McNemar, mcnemar

COLOURS = ("#0072b2", "#d55e00")  # told apart by colour-blind eyes as well (Okabe and Ito)
CLASSES_SHOWN = 40  # in the terminal and in the picture; the JSON has all


def summary(found: Sequence[Answers], data: str, unreadable: Sequence[str]) -> dict[str, Any]:
    """Everything that was found, for one network or two."""
    result: dict[str, Any] = {
        "data": data,
        "images": len(found[0].labels),
        "unreadable": list(unreadable),
        "networks": [
            {
                "name": each.name,
                "top1": asdict(each.top1),
                "top5": asdict(each.top5),
                "loss": each.loss,
                "calibration_error": calibration_error(each),
                "confidence_bins": [asdict(one) if one else None for one in confidence_bins(each)],
                "classes": [asdict(row) for row in class_rows(each)],
            }
            for each in found
        ],
    }
    if len(found) == 2:
        result["mcnemar"] = asdict(mcnemar(found[0].correct, found[1].correct))
    return result


def as_text(found: Sequence[Answers], data: str, unreadable: Sequence[str]) -> str:
    """The tables for a terminal."""
    width = max(len(each.name) for each in found) + 2
    lines = [f"{data}: {len(found[0].labels):,} images, {len(unreadable)} files left out as unreadable", ""]
    lines.append(f"{'':{width}}{'top-1, 95 % interval':>25}{'top-5':>10}{'loss':>9}{'calibration error':>20}")
    lines += [
        f"{each.name:{width}}{percent(each.top1):>25}{each.top5.estimate:>10.2%}{each.loss:>9.4f}"
        f"{calibration_error(each):>20.2%}"
        for each in found
    ]
    for each in found:
        rows = class_rows(each)
        label = max(len(row.name) for row in rows) + 2
        lines += ["", f"{each.name}, the classes that it recognises least first"]
        lines.append(f"{'':{label}}{'images':>8}{'recall, 95 % interval':>26}{'precision':>11}  most often taken for")
        rows.sort(key=lambda row: row.recall.estimate)
        lines += [
            f"{row.name:{label}}{row.n:>8}{percent(row.recall):>26}"
            f"{'' if row.precision is None else format(row.precision, '.2%'):>11}  {row.taken_for or ''}"
            for row in rows[:CLASSES_SHOWN]
        ]
        lines += [f"and {len(rows) - CLASSES_SHOWN} more in the JSON"] if len(rows) > CLASSES_SHOWN else []
    if len(found) == 2:
        lines += ["", *comparison(found[0].name, found[1].name, mcnemar(found[0].correct, found[1].correct))]
    return "\n".join(lines)


def comparison(first: str, second: str, test: McNemar) -> list[str]:
    difference = test.difference
    points = f"{difference.estimate * 100:+.2f} points [{difference.low * 100:+.2f}, {difference.high * 100:+.2f}]"
    if difference.leaves_out_zero:
        meaning = f"on images like these, these weights of {better(first, second, difference)} are the better ones."
    else:
        meaning = "on images like these, no difference between these two sets of weights is shown."
    return [
        f"{second} against {first}, the same {test.n:,} images: {points},",
        f"McNemar's exact test p = {test.p_value:.2g}; only {first} is right on {test.only_first:,}, "
        f"only {second} on {test.only_second:,}.",
        f"So {meaning}",
        "This judges two files of weights and not what made them: trained again with another seed, each would score",
        "otherwise, so with one seed each even a clear difference may not be the block ordering's, and between two",
        "ResNet-20 it may mean nothing. `python -m models study` trains several seeds of both.",
    ]


def better(first: str, second: str, difference: Interval) -> str:
    return second if difference.estimate > 0 else first


def percent(interval: Interval) -> str:
    return f"{interval.estimate:.2%} [{interval.low * 100:.2f}, {interval.high * 100:.2f}]"


def write_figure(found: Sequence[Answers], path: Path) -> None:
    """Left, how often an answer of a given confidence is right; right, the recall of each class."""
    rows = class_rows(found[0])[:CLASSES_SHOWN]
    figure = Figure(figsize=(10, max(4.5, 1.5 + 0.25 * len(rows))), layout="constrained")
    reliability, recall = figure.subplots(1, 2)
    reliability.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":", label="as sure as right")
    recalls = np.array([[row.recall.estimate for row in class_rows(each)[: len(rows)]] for each in found]) * 100
    places = np.arange(len(rows))
    for index, (each, colour) in enumerate(zip(found, COLOURS, strict=False)):
        bins = [one for one in confidence_bins(each) if one is not None]
        label = f"{each.name}, error {calibration_error(each):.1%}"
        reliability.plot([b.confidence for b in bins], [b.accuracy for b in bins], "o-", color=colour, label=label)
        intervals = [row.recall for row in class_rows(each)[: len(rows)]]
        reach = np.array([[i.estimate - i.low, i.high - i.estimate] for i in intervals]).T * 100
        shift = (index - (len(found) - 1) / 2) * 0.25
        recall.errorbar(recalls[index], places + shift, xerr=reach, fmt="o", color=colour, label=each.name)
    reliability.set(
        title=f"Calibration, {BINS} bins",
        xlabel="probability of the answer",
        ylabel="share that is right",
        aspect="equal",
    )
    recall.set(title="Recall by class, 95 % intervals", xlabel="% of the class's images", yticks=places)
    recall.set_yticklabels([row.name for row in rows])
    recall.invert_yaxis()
    for axes in (reliability, recall):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
