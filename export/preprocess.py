"""From an encoded image to the uint8 pixels that a graph takes. Torch-free, driven by the manifest."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.pixels import FORMATS, as_seen, resize_and_crop
from models.spec import Preprocessing


class ImageError(ValueError):
    """The bytes are not an image that is accepted here."""


class ImageTooLargeError(ImageError):
    """Its header promises more pixels than are decoded here."""


def to_pixels(encoded: bytes, preprocessing: Preprocessing, max_pixels: int) -> NDArray[np.uint8]:
    """An encoded image -> uint8 [crop, crop, 3]. The header is judged before anything is decoded.

    Raises:
        ImageTooLargeError: width times height, by the header, is above `max_pixels`.
        ImageError: not one of `FORMATS`, damaged or truncated.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageTooLargeError(
                    f"the image is {width} x {height}, {width * height / 1e6:.0f} megapixels; "
                    f"at most {max_pixels / 1e6:g} are accepted"
                )
            return resize_and_crop(as_seen(image), preprocessing)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"the body ({len(encoded)} bytes, beginning {encoded[:8].hex(' ')}) is no readable image; accepted: "
            + ", ".join(FORMATS)
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{error}; at most {max_pixels / 1e6:g} megapixels are accepted") from None
    except Exception as error:
        raise ImageError(f"the image is damaged or truncated: {type(error).__name__}: {error}") from error
