"""The exported graph against the network it came from, on the same images, and against a labelled test set."""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from export.artifact import Accuracy, Parity, Precision
from export.quantize import QuantizationError
from export.to_onnx import INPUT, OUTPUT, ServedGraph
from models.data import IMAGE_SUFFIXES, DataError, Split, batches_in_order
from models.pixels import ImageError, read_image, resize_and_crop
from models.spec import Preprocessing

Pixels = NDArray[np.uint8]  # [N, crop, crop, 3]
BATCH_SIZE = 50
PARITY_IMAGES = 1000  # of a test set; accuracy uses all of it
TOLERANCE = {  # of the largest logit
    Precision.FP32: 1e-3,  # the shipped pair differs by 1e-5 at most, absolutely
    Precision.INT8: 1.0,  # refuses what is not finite or quite another network; its gate is accuracy
}


class ParityError(ValueError):
    """The exported graph does not compute what the network computes."""


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def compare(
    graph: ServedGraph, session: onnxruntime.InferenceSession, images: Pixels, description: str, tolerance: float
) -> Parity:
    """Run both over `images`, uint8 [N, crop, crop, 3]; `tolerance` is a share of the largest logit.

    Raises:
        ParityError: a logit differs by more.
    """
    difference, largest, agreeing = np.float32(0), np.float32(1), 0
    for start in tqdm(range(0, len(images), BATCH_SIZE), desc="parity", unit="batch", leave=False):
        batch = images[start : start + BATCH_SIZE]
        with torch.inference_mode():
            expected = graph(torch.from_numpy(batch)).numpy()
        found = run(session, batch)
        difference = np.maximum(difference, np.abs(found - expected).max())  # keeps NaN, Python's max does not
        largest = np.maximum(largest, np.abs(expected).max())
        agreeing += int((found.argmax(1) == expected.argmax(1)).sum())
    if not difference <= tolerance * largest:  # refuses NaN as well
        raise ParityError(
            f"the exported graph's logits differ from torch's by up to {difference:.2g} over {len(images)} images "
            f"({description}); accepted is {tolerance * largest:.2g}. Nothing was written"
        )
    return Parity(
        max_abs_logit_difference=float(difference),
        top1_agreement=agreeing / len(images),
        n=len(images),
        images=description,
    )


def measure_accuracy(session: onnxruntime.InferenceSession, split: Split, labels: tuple[str, ...]) -> Accuracy:
    """Top-1 over the whole split.

    Raises:
        DataError: its classes are not the network's `labels`, in their order.
    """
    if split.class_names != labels:
        raise DataError(f"the data's classes are {list(split.class_names)}, the network's {list(labels)}")
    correct = 0
    batches = batches_in_order(split.images, BATCH_SIZE)
    for images, expected in tqdm(batches, desc="accuracy", unit="batch", leave=False):
        logits = run(session, images.permute(0, 2, 3, 1).numpy())
        correct += int((logits.argmax(1) == expected.numpy()).sum())
    n = len(split.images)
    return Accuracy(top1=correct / n, correct=correct, n=n, data=f"{split.name} test")


def refuse_loss(before: Accuracy, after: Accuracy, most_points: float) -> None:
    """Raises QuantizationError where int8 scores more than `most_points` percentage points less than fp32."""
    lost = 100 * (before.top1 - after.top1)
    if lost > most_points:
        raise QuantizationError(
            f"int8 scores {after.top1:.2%} on {after.data}, fp32 {before.top1:.2%}: {lost:.2f} points are lost, "
            f"accepted are {most_points:g} (--most-points-lost). Nothing was written; try other --calibration images"
        )


def run(session: onnxruntime.InferenceSession, images: Pixels) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = session.run([OUTPUT], {INPUT: np.ascontiguousarray(images)})[0]
    return logits


def from_split(split: Split) -> Pixels:
    indices = range(min(PARITY_IMAGES, len(split.images)))
    images, _ = split.images.__getitems__(indices)
    return images.permute(0, 2, 3, 1).numpy()


def from_photographs(folder: Path, preprocessing: Preprocessing) -> tuple[Pixels, str]:
    """Every photograph of a folder whole, and at most 64 crop-sized tiles of each; and a description of them."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: list[Pixels] = []
    read = unreadable = 0
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
        try:
            found.extend(tiles(read_image(path), preprocessing))
            read += 1
        except ImageError:
            unreadable += 1
    if not found:
        raise DataError(f"{folder}: no readable images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    skipped = f", {unreadable} unreadable files skipped" if unreadable else ""
    return np.stack(found), f"{read} photographs and tiles of them{skipped}"


def tiles(image: Image.Image, preprocessing: Preprocessing, most: int = 64) -> Iterator[Pixels]:
    yield resize_and_crop(image, preprocessing)
    crop = preprocessing.crop
    corners = [(x, y) for y in range(0, image.height - crop, crop) for x in range(0, image.width - crop, crop)]
    for x, y in corners[:: max(1, len(corners) // most)][:most]:
        yield np.asarray(image.crop((x, y, x + crop, y + crop)))


def bundled_photographs() -> Path | None:
    """The photographs inside scikit-image, where that is installed."""
    if importlib.util.find_spec("skimage") is None:
        return None
    return Path(str(importlib.resources.files("skimage"))) / "data"


def from_folder(folder: Path, preprocessing: Preprocessing, most: int) -> Pixels:
    """At most `most` images of a folder and those below it, evenly spread over their names, without the unreadable.

    Raises:
        DataError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    found: list[Pixels] = []
    for index in (
        np.linspace(0, len(paths), most, endpoint=False, dtype=int) if len(paths) > most else range(len(paths))
    ):
        with suppress(ImageError):
            found.append(resize_and_crop(read_image(paths[index]), preprocessing))
    if not found:
        raise DataError(f"{folder}: no readable images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    return np.stack(found)


def random_pixels(preprocessing: Preprocessing, n: int = 16) -> Pixels:
    shape = (n, preprocessing.crop, preprocessing.crop, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
