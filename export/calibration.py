"""The ranges of a graph's tensors, from images or from the file beside a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ValidationError

from export.artifact import Strict
from export.images import Pixels, bundled_photographs, from_folder, from_photographs, random_pixels
from export.progress import progress
from export.quantize import PrecisionError, Ranges, calibrate
from export.source import Source
from models.atomic_file import write_atomically
from models.data import Part, load_split

IMAGES = 1024  # at most
BATCH_SIZE = 64
SAME = 1e-4  # relative: as far as machines may differ in rounding


class Calibration(Strict):
    """What int8 needs to know of a network's values, and where it is from.

    `largest`, the largest absolute value of each constant, tells the float graph that was calibrated from others. A
    digest would differ by the last bit from one machine to another.
    """

    checkpoint_sha256: str | None
    largest: dict[str, float]
    images: str
    n: int
    ranges: Ranges


def calibration_of(model: onnx.ModelProto, source: Source, images: Path | None, data: Path | None) -> Calibration:
    """From images where any are given, training's part of labelled data alone; else what lies beside the checkpoint.

    Raises:
        PrecisionError: there is neither, or the file is of another checkpoint.
        DataError: the images cannot be read.
    """
    found = calibration_images(source, images, data)
    if found is None:
        assert source.checkpoint is not None
        return read_calibration(file_beside(source.checkpoint), source.checkpoint_sha256, model)
    pixels, description = found
    batches = progress(split_up(pixels), "calibration", "batch", total=-(-len(pixels) // BATCH_SIZE))
    ranges = dict(sorted(calibrate(model, batches).items()))
    return Calibration(
        checkpoint_sha256=source.checkpoint_sha256,
        largest=largest_of(model),
        images=description,
        n=len(pixels),
        ranges=ranges,
    )


def largest_of(model: onnx.ModelProto) -> dict[str, float]:
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: float(np.abs(array).max()) for name, array in sorted(arrays.items()) if array.dtype == np.float32}


def calibration_images(source: Source, images: Path | None, data: Path | None) -> tuple[Pixels, str] | None:
    preprocessing = source.spec.preprocessing
    if images is not None:
        return from_folder(images, preprocessing, IMAGES), images.name
    if data is not None:
        split = load_split(data, Part.TRAIN, preprocessing)
        chosen = np.random.default_rng(0).permutation(len(split.images))[:IMAGES]
        images_of_split, _ = split.images.__getitems__(sorted(chosen.tolist()))
        return images_of_split.permute(0, 2, 3, 1).numpy(), f"{split.name} train"
    if source.checkpoint is not None:
        return None
    bundled = bundled_photographs()
    if bundled is None:
        return random_pixels(preprocessing), "random pixels"
    pixels, description = from_photographs(bundled, preprocessing)
    return pixels[:: -(-len(pixels) // IMAGES)], description


def split_up(pixels: Pixels) -> Iterator[NDArray[np.uint8]]:
    return (np.ascontiguousarray(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE))


def file_beside(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".calibration.json")


def write_calibration(path: Path, calibration: Calibration) -> None:
    write_atomically(path, calibration.model_dump_json(indent=1).encode() + b"\n")


def read_calibration(path: Path, checkpoint_sha256: str | None, model: onnx.ModelProto) -> Calibration:
    """Raises PrecisionError where the file is absent, unreadable, or of another checkpoint or graph."""
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PrecisionError(
            f"int8 needs images like those to be served: give --calibration FOLDER or --data; there is no {path} either"
        ) from None
    except (OSError, ValidationError) as error:
        raise PrecisionError(f"{path}: no calibration ({error}); give --calibration FOLDER to renew it") from error
    if found.checkpoint_sha256 != checkpoint_sha256:
        raise PrecisionError(
            f"{path}: is of the checkpoint with sha256 {found.checkpoint_sha256}, this one has {checkpoint_sha256}; "
            "give --calibration FOLDER to calibrate anew"
        )
    largest = largest_of(model)
    if largest.keys() != found.largest.keys() or not np.allclose(
        list(largest.values()), [found.largest[name] for name in largest], rtol=SAME, atol=0
    ):
        raise PrecisionError(
            f"{path}: is of another graph of this checkpoint, folded or normalised otherwise; "
            "give --calibration FOLDER to calibrate anew"
        )
    return found
