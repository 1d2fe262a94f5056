"""The pictures that are posted: made up, the same on every machine with the same Pillow."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from loadtests.serving_bench.plan import Network

COUNT = 8
FADES = 0.7  # a scale's strength over that of the next coarser: files then are as large as those of photographs


def write_jpegs(folder: Path, network: Network) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.jpg" for number in range(COUNT)]
    for seed, path in enumerate(paths):
        picture(seed, *network.jpeg_size).save(path, "JPEG", quality=network.jpeg_quality, subsampling=0)
    return paths


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Noise of every scale."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    strength, cells = 64.0, 2
    while cells <= 2 * min(width, height):
        noise = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        scaled = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(scaled, np.float32) - 127.5) / 127.5 * strength
        strength, cells = strength * FADES, cells * 2
    return Image.fromarray(np.clip(total + 127.5, 0, 255).astype(np.uint8))


def sha256_of(paths: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
