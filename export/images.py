"""Images to compare logits on and to calibrate with: of a data set, of a folder, or those inside scikit-image."""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data import IMAGE_SUFFIXES, DataError, Split
from models.pixels import ImageError, read_image, resize_and_crop
from models.spec import Preprocessing

Pixels = NDArray[np.uint8]  # [N, crop, crop, 3]
PARITY_IMAGES = 1000  # of a test set; accuracy uses all of it


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
