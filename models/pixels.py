"""From an encoded image to the pixels a network sees; torch-free, shared by training, verification and serving.

The arithmetic is Pillow's own resize on uint8, so that a network is served exactly what it was trained on.
"""

from __future__ import annotations

import io
import re
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from models.costly import EXIF, JPEG_BEGINS, pixels_at_once, refuse_costly
from models.image_steps import SCAN, CostlyError
from models.spec import Interpolation, Preprocessing

# What people send as photographs. Pillow's further formats stay shut: EPS runs another program, ICO decodes while it
# opens, before its size can be judged.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}
LAB_TO_RGB = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
TO_8_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)
TIFF = b"tiff:Orientation"  # beside Exif, where Pillow looks for one
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by Exif's orientation
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # more raise Pillow's DecompressionBombError
LARGE = 4_000_000  # pixels; decoding takes several bytes for each, so large images are decoded one at a time
SMALL, SMALL_BYTES, SMALL_SCANS = 65_536, 16_384, 16  # pixels, bytes, and passes over them: a progressive JPEG has ten
LONGEST = 16  # times the shorter side; of a longer strip only the middle can be seen anyway

one_large_at_a_time = threading.Lock()


class ImageError(ValueError):
    """The bytes are not an image that is accepted here."""


class ImageTooLargeError(ImageError):
    """Its header promises more pixels than are decoded here."""


def read_pixels(
    source: Path | IO[bytes], preprocessing: Preprocessing, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """An encoded image -> uint8 [crop, crop, 3]; see `read_image` for its errors."""
    content = source.read_bytes() if isinstance(source, Path) else source.read()
    whole = plain_jpeg(content, LARGE if max_pixels is None else min(LARGE, max_pixels))
    if whole is None:
        return resize_and_crop(read_image(io.BytesIO(content), max_pixels), preprocessing)
    return fitted(whole, preprocessing)


def read_small_jpeg(content: bytes, preprocessing: Preprocessing, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """As `read_pixels`, of what `is_small_jpeg` has found to be one: it is not examined again."""
    try:
        whole = np.asarray(simplejpeg.decode_jpeg(content), np.uint8)
    except ValueError:
        return read_pixels(io.BytesIO(content), preprocessing, max_pixels)
    return fitted(whole, preprocessing)


def fitted(whole: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    if whole.shape[0] == whole.shape[1] == preprocessing.resize == preprocessing.crop:
        return whole
    return resize_and_crop(Image.fromarray(whole), preprocessing)


def plain_jpeg(content: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """RGB pixels [height, width, 3] of the kind of JPEG that most people send; None for what else Pillow may read.

    Both decode by libjpeg-turbo and agree in every bit; what Pillow does in Python around it takes longer than a small
    picture does. Whatever may be rotated, has other colours than YCbCr or is in any way odd is left to Pillow.
    """
    pixels = pixels_of_plain_jpeg(content)
    if pixels is None or pixels > max_pixels or content.count(SCAN) > SMALL_SCANS:
        return None
    try:
        return np.asarray(simplejpeg.decode_jpeg(content), np.uint8)
    except ValueError:
        return None


def is_small_jpeg(content: bytes, max_pixels: int = SMALL) -> bool:
    """Whether it is plain, of `max_pixels` at most, and is read in about a millisecond.

    One of as few pixels and bytes, but 1,283 scans, took 80. What is not plain may bring hundreds of tags, which Pillow
    reads in Python.
    """
    if len(content) > SMALL_BYTES or content.count(SCAN) > SMALL_SCANS:
        return False
    pixels = pixels_of_plain_jpeg(content)
    return pixels is not None and pixels <= min(SMALL, max_pixels)


def pixels_of_plain_jpeg(content: bytes) -> int | None:
    if not content.startswith(JPEG_BEGINS) or EXIF in content or TIFF in content:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return int(height * width) if colours == "YCbCr" else None


def read_image(source: Path | IO[bytes], max_pixels: int | None = None) -> Image.Image:
    """The first frame as RGB. The header is judged before anything is decoded.

    Raises:
        ImageTooLargeError: width times height, by the header, is above `max_pixels`.
        ImageError: not one of `FORMATS`, damaged or truncated, or out of all proportion (`models/costly.py`).
    """
    try:
        content = source.read_bytes() if isinstance(source, Path) else source.read()
        refuse_costly(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            pixels = pixels_at_once(image)
            if max_pixels is not None and pixels > max_pixels:
                width, height = image.size
                tiles = "in tiles of " if pixels > width * height else ""
                raise ImageTooLargeError(
                    f"the image is {width} x {height}, {tiles}{pixels / 1e6:.1f} megapixels; "
                    f"at most {max_pixels / 1e6:g} are accepted"
                )
            # An AVIF may have more than it says, up to 268 megapixels.
            with one_large_at_a_time if pixels > LARGE or image.format == "AVIF" else nullcontext():
                return as_seen(image)
    except ImageError:
        raise
    except CostlyError as error:
        raise ImageError(f"the image would take too long to read: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"no readable image; accepted: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise too_large_for_pillow(str(error), max_pixels) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile input
        raise ImageError(f"the image is damaged or truncated: {type(error).__name__}: {error}") from error


def too_large_for_pillow(said: str, max_pixels: int | None) -> ImageTooLargeError:
    """In our words: its own limit is mostly far above what is accepted here."""
    size = re.search(r"\((\d+) pixels\)", said)
    found = f"{int(size[1]) / 1e6:.1f} megapixels" if size else "too large"
    accepted = MOST_PIXELS if max_pixels is None else min(max_pixels, MOST_PIXELS)
    return ImageTooLargeError(f"the image is {found}; at most {accepted / 1e6:g} are accepted")


def as_seen(image: Image.Image) -> Image.Image:
    """As a person would see it: upright, 8 bits RGB, transparency over white. Colour profiles are not applied."""
    image = upright(image)
    if image.mode == "LAB":
        return LAB_TO_RGB.apply(image)  # Pillow's own convert has no LAB
    if image.mode[0] in "IF":
        return Image.fromarray(to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image.getchannel("A"))
        return opaque
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """As Pillow's `exif_transpose`, which writes all of the Exif anew, and may take seconds for that."""
    image.load()  # until then a PNG may not have come to it
    turned = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turned is None else image.transpose(turned)


def to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey samples of 16 bits or more, scaled to 8; Pillow's own `convert` clips all above 255 to white.

    Integers are read as 16 bits, the widest that image formats hold, and floats as 0 to 1. What goes beyond that is
    scaled by its own extremes.
    """
    samples = np.asarray(image)
    transparent = image.info.get("transparency")
    if samples.dtype.kind in "iu" and samples.min() >= 0 and samples.max() < len(TO_8_BITS):
        grey = TO_8_BITS[samples]
    else:
        samples = np.nan_to_num(samples.astype(np.float32))
        low, high = min(float(samples.min()), 0.0), max(float(samples.max()), 1.0)
        grey = np.rint((samples - low) * (255.0 / (high - low))).astype(np.uint8)
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return np.asarray(grey, np.uint8)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """RGB image -> uint8 [crop, crop, 3]: shorter side to `resize`, then the centre.

    Sizes and offsets round as torchvision's `Resize` and `CenterCrop` document. Resizing only the centre, by Pillow's
    `box`, would be cheaper, but differs in the last bit on three photographs of four.
    """
    image = middle_of_a_strip(image)
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


def middle_of_a_strip(image: Image.Image) -> Image.Image:
    """Bounds the resize: 1 x 5,000,000 pixels would become 256 x 1,280,000,000."""
    width, height = (min(side, LONGEST * min(image.size)) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
