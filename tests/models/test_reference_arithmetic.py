"""Preprocessing equals torchvision's and timm's evaluation transforms, pixel for pixel, on real photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from models.pixels import read_pixels
from models.spec import Interpolation, Preprocessing
from tests.conftest import SHARED_DATA
from tests.peers import peers

STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def upright(image: Image.Image) -> Image.Image:
    """EXIF orientation is ours to apply: their loaders leave it out, and one of the photographs has it."""
    return ImageOps.exif_transpose(image).convert("RGB")


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (32, 32)])
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_pixels_equal_torchvisions(
    resize: int, crop: int, interpolation: Interpolation, photographs_: list[Path]
) -> None:
    transforms = peers()["torchvision"].transforms
    mode = transforms.InterpolationMode(interpolation.value)
    reference = transforms.Compose([transforms.Resize(resize, mode), transforms.CenterCrop(crop)])
    ours = Preprocessing(resize, crop, interpolation=interpolation, **STATISTICS)
    for path in photographs_:
        with Image.open(path) as image:
            expected = np.asarray(reference(upright(image)))
        assert np.array_equal(read_pixels(path, ours), expected), path.name


def test_pixels_equal_timms(photographs_: list[Path]) -> None:
    data = peers()["timm"].data
    config = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, **STATISTICS}
    whole = data.create_transform(**config, is_training=False)
    reference = [step for step in whole.transforms if type(step).__name__ in {"Resize", "CenterCrop"}]
    assert len(reference) == 2
    for path in photographs_:
        with Image.open(path) as image:
            expected = upright(image)
        for step in reference:
            expected = step(expected)
        ours = Preprocessing(256, 224, interpolation=Interpolation.BICUBIC, **STATISTICS)
        assert np.array_equal(read_pixels(path, ours), np.asarray(expected)), path.name


@pytest.fixture(name="photographs_")
def all_photographs(photographs: Path) -> list[Path]:
    """Those of ../shared/data where it is there, and scikit-image's in any case."""
    return sorted([*(SHARED_DATA / "photos").glob("*.JPEG"), *photographs.glob("*.jpg"), photographs / "chelsea.png"])
