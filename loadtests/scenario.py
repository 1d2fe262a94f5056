"""What is sent to a service, and what its answer has to contain."""

from __future__ import annotations

import bisect
import io
import json
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loadtests.input_file import InputFileError, unread

GRAINS = (16, 8, 4, 2, 1)  # pixels to one of noise
NEAR = 0.1  # of the bytes asked for


@dataclass(frozen=True, slots=True)
class Payload:
    """A request: its path and what its answer has to contain, both with `{variant}` for the variant's name."""

    body: bytes
    headers: Mapping[str, str]
    path: str
    answered: str


def encoded(body: bytes, content_type: str) -> Payload:
    """An encoded image for the service to decode."""
    return Payload(body, {"content-type": content_type}, "/classify?variant={variant}", '"variant":"{variant}"')


def tensors(shape: Sequence[int], count: int = 8) -> list[Payload]:
    """Random pixels of a shape [N, crop, crop, 3] by the Open Inference Protocol, as raw bytes: nothing to decode."""
    found = []
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        size = {"binary_data_size": pixels.nbytes}
        given = {"name": "images", "datatype": "UINT8", "shape": list(shape), "parameters": size}
        header = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))}
        path, answered = "/v2/models/{variant}/infer", '"model_name":"{variant}"'
        found.append(Payload(header + pixels.tobytes(), headers, path, answered))
    return found


def payloads(
    folder: Path | None = None, size: tuple[int, int] = (224, 224), image_bytes: int | None = None
) -> list[Payload]:
    """The images of a folder, or, without one, eight made-up JPEGs of `size` (width, height) and about `image_bytes`.

    Raises InputFileError, and ValueError where no JPEG of that size comes near to so many bytes.
    """
    if folder is None:
        return [encoded(made_up(seed, size, image_bytes), "image/jpeg") for seed in range(8)]
    try:
        paths = sorted(path for path in folder.iterdir() if (mimetypes.guess_type(path)[0] or "").startswith("image/"))
        found = [encoded(path.read_bytes(), mimetypes.guess_type(path)[0] or "") for path in paths]
    except OSError as error:
        raise InputFileError(unread(Path(error.filename or folder), error, "expected a folder of images")) from error
    if not found:
        raise InputFileError(f"{folder}: no images in it")
    return found


def made_up(seed: int, size: tuple[int, int], image_bytes: int | None) -> bytes:
    """A JPEG of smooth noise, 10 KB where it is 224 x 224; noise and quality come as close to `image_bytes` as they
    can."""
    if image_bytes is None:
        return jpeg(seed, size, grain=8, quality=85)
    tried = (search_quality(seed, size, grain, image_bytes) for grain in GRAINS)
    found = min(tried, key=lambda content: abs(len(content) - image_bytes))
    if abs(len(found) - image_bytes) > NEAR * image_bytes:
        raise ValueError(
            f"no JPEG of {size[0]} x {size[1]} pixels has about {image_bytes} bytes, the nearest has {len(found)}; "
            "ask for another size of image or number of bytes"
        )
    return found


def search_quality(seed: int, size: tuple[int, int], grain: int, image_bytes: int) -> bytes:
    """Bytes grow with the quality, from 1 to 95."""
    low = bisect.bisect(range(1, 95), image_bytes, key=lambda quality: len(jpeg(seed, size, grain, quality)))
    around = (jpeg(seed, size, grain, quality) for quality in (max(low, 1), low + 1))
    return min(around, key=lambda content: abs(len(content) - image_bytes))


def jpeg(seed: int, size: tuple[int, int], grain: int, quality: int) -> bytes:
    """Noise of one random pixel in `grain`, with what lies between made smooth."""
    width, height = size
    shape = (max(height // grain, 1), max(width // grain, 1), 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def read_size(text: str) -> tuple[int, int]:
    """Width and height of `224x224`. Raises ValueError."""
    if not (found := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)):
        raise ValueError(f"{text!r} is not a size of images; expected WIDTHxHEIGHT, for example 224x224")
    return int(found[1]), int(found[2])
