"""From a decoded image to the pixels a network sees; torch-free, shared by training, verification and serving.

The arithmetic is Pillow's own resize on uint8, so that a network is served exactly what it was trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.spec import Interpolation, Preprocessing

FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}


def as_seen(image: Image.Image) -> Image.Image:
    """The first frame as a person would see it: upright, 8 bits RGB, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit samples keep their upper byte; Pillow's own `convert` would clip everything above 255 to white."""
    samples = np.asarray(image)
    if samples.dtype.kind == "f":
        low, high = float(samples.min()), float(samples.max())
        samples = (samples - low) * (255.0 / max(high - low, 1e-12))
    elif samples.max(initial=0) > 255:
        samples = np.clip(samples, 0, 65535) // 257
    return Image.fromarray(samples.astype(np.uint8))


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """RGB image -> uint8 [crop, crop, 3]: shorter side to `resize`, then the centre.

    Sizes and offsets round as torchvision's `Resize` and `CenterCrop` document.
    """
    width, height = image.size
    short, crop = preprocessing.resize, preprocessing.crop
    if width <= height:
        size = (short, max(short, int(short * height / width)))
    else:
        size = (max(short, int(short * width / height)), short)
    if size != image.size:
        image = image.resize(size, FILTERS[preprocessing.interpolation])
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))
