"""From a decoded image to the pixels a network sees; torch-free, shared by training, verification and serving.

The arithmetic is Pillow's own resize on uint8, so that a network is served exactly what it was trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from models.spec import Interpolation, Preprocessing

# What people send as photographs. Pillow's further formats stay shut: some run other programs (EPS), none is asked for.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO")
FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}
LAB_TO_RGB = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def as_seen(image: Image.Image) -> Image.Image:
    """The first frame as a person would see it: upright, 8 bits RGB, transparency over white."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "LAB":
        return LAB_TO_RGB.apply(image)  # Pillow's own convert has no LAB
    if image.mode[0] in "IF":
        return to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image.getchannel("A"))
        return opaque
    return image.convert("RGB")


def to_8_bits(image: Image.Image) -> Image.Image:
    """Grey samples of 16 bits or more, scaled to 8; Pillow's own `convert` clips all above 255 to white.

    Integers are read as 16 bits, the widest that image formats hold, and floats as 0 to 1; what goes beyond is
    scaled by its own extremes.
    """
    samples = np.asarray(image).astype(np.float32)
    low, high = (0.0, 1.0) if image.mode == "F" else (0.0, 65535.0)
    if samples.min(initial=low) < low or samples.max(initial=high) > high:
        low, high = float(samples.min()), float(samples.max())
    grey = (samples - low) * (255.0 / (high - low))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255.0
    return Image.fromarray(np.rint(grey).astype(np.uint8))


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
