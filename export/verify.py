"""What was exported against the network it came from, on the same images, and against a labelled test set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.artifact import Accuracy, Parity, Precision
from export.class_maps import CLASS_MAPS
from export.graph_session import on_cpu
from export.images import Pixels
from export.progress import progress
from export.quantize import PrecisionError
from export.to_onnx import INPUT, OUTPUT, ServedGraph
from models.data import DataError, Split, batches_in_order

Run = Callable[[Pixels], NDArray[np.float32]]  # to logits [N, classes]
BATCH_SIZE = 50
TOLERANCE = {  # of the largest logit
    Precision.FP32: 1e-3,  # the shipped pair differs by 1e-5 at most, absolutely
    Precision.FP16: 3e-2,  # the shipped pair by 3e-3
    Precision.INT8: 1.0,  # refuses what is not finite or quite another network; its gate is accuracy
}
MOST_POINTS_LOST = {Precision.FP32: 100.0, Precision.FP16: 0.1, Precision.INT8: 0.5}  # of top-1, in percentage points


class ParityError(ValueError):
    """What was exported does not compute what the network computes."""


def open_graph(path: Path, output: str = OUTPUT) -> Run:
    """A graph, run by ONNX Runtime on the CPU."""
    session = on_cpu(path)

    def run(images: Pixels) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([output], {INPUT: np.ascontiguousarray(images)})[0]
        return found

    return run


def open_maps(path: Path) -> Run:
    """A graph of class maps, as one of logits: their means over all positions."""
    maps = open_graph(path, CLASS_MAPS)
    return lambda images: maps(images).mean((2, 3))


def compare(graph: ServedGraph, run: Run, images: Pixels, description: str, precision: Precision) -> Parity:
    """Let both run over `images`, uint8 [N, crop, crop, 3].

    Raises:
        ParityError: a logit differs by more than TOLERANCE allows, or is no number.
    """
    difference, largest, agreeing, endless = np.float32(0), np.float32(1), 0, 0
    for start in progress(range(0, len(images), BATCH_SIZE), "parity", "batch"):
        batch = images[start : start + BATCH_SIZE]
        with torch.inference_mode():
            expected = graph(torch.from_numpy(batch)).numpy()
        found = run(batch)
        endless += int((~np.isfinite(found)).any(1).sum())
        difference = np.maximum(difference, np.abs(found - expected).max())  # keeps NaN, Python's max does not
        largest = np.maximum(largest, np.abs(expected).max())
        agreeing += int((found.argmax(1) == expected.argmax(1)).sum())
    if endless:
        cause = "fp16 overflows" if precision is Precision.FP16 else "what was exported gives no numbers"
        advice = "; use --precision fp32" if precision is Precision.FP16 else ""
        raise ParityError(
            f"{cause} (inf/nan in {endless} of {len(images)} images, {description}). Nothing was written{advice}"
        )
    tolerance = TOLERANCE[precision]
    if not difference <= tolerance * largest:  # refuses NaN as well
        raise ParityError(
            f"the logits of what was exported differ from torch's by up to {difference:.2g} over {len(images)} images "
            f"({description}); accepted is {tolerance * largest:.2g}. Nothing was written"
        )
    return Parity(
        max_abs_logit_difference=float(difference),
        top1_agreement=agreeing / len(images),
        n=len(images),
        images=description,
    )


def measure_accuracy(run: Run, split: Split, labels: tuple[str, ...]) -> Accuracy:
    """Top-1 over the whole split.

    Raises:
        DataError: its classes are not the network's `labels`, in their order.
    """
    if split.class_names != labels:
        raise DataError(f"the data's classes are {list(split.class_names)}, the network's {list(labels)}")
    correct = 0
    batches = batches_in_order(split.images, BATCH_SIZE)
    for images, expected in progress(batches, "accuracy", "batch"):
        logits = run(images.permute(0, 2, 3, 1).numpy())
        correct += int((logits.argmax(1) == expected.numpy()).sum())
    n = len(split.images)
    return Accuracy(top1=correct / n, correct=correct, n=n, data=f"{split.name} test")


def refuse_loss(before: Accuracy, after: Accuracy, precision: Precision, most_points: float) -> None:
    """Raises PrecisionError where `after` is more than `most_points` percentage points less than fp32, `before`."""
    lost = 100 * (before.top1 - after.top1)
    if lost > most_points:
        calibrate = "; try other --calibration images" if precision is Precision.INT8 else ""
        raise PrecisionError(
            f"{precision} scores {after.top1:.2%} on {after.data}, fp32 {before.top1:.2%}: {lost:.2f} points are lost, "
            f"accepted are {most_points:g} (--most-points-lost). Nothing was written{calibrate}"
        )
