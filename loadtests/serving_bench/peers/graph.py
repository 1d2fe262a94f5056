"""The work that every lane does alike: JPEG -> pixels -> logits -> five most probable classes.

Session and arithmetic are the service's own, so that only what stands around them differs, and how a JPEG is decoded.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.artifact import GRAPH_FILE, read_manifest
from export.graph_session import on_cpu
from models.pixels import as_seen, read_pixels, resize_and_crop

TOP_K = 5

Prediction = dict[str, Any]


def threads() -> int:
    """Images decoded and inferred side by side."""
    return int(os.environ["BENCH_THREADS"])


class Graph:
    """The artifact that `BENCH_ARTIFACT` names, open."""

    def __init__(self) -> None:
        folder = Path(os.environ["BENCH_ARTIFACT"])
        self.manifest = read_manifest(folder, folder.name)
        self.decoder = os.environ.get("BENCH_DECODER", "pillow")
        self.session = on_cpu(folder / GRAPH_FILE, int(os.environ.get("BENCH_INTRA_OP_THREADS", "1")))

    def classify(self, encoded: bytes) -> list[Prediction]:
        return self.most_probable(self.logits(self.pixels(encoded)))

    def classify_opened(self, image: Image.Image) -> list[Prediction]:
        """For who hands over an image that Pillow has opened already."""
        return self.most_probable(self.logits(resize_and_crop(as_seen(image), self.manifest.spec.preprocessing)))

    def pixels(self, encoded: bytes) -> NDArray[np.uint8]:
        """Pillow's, as the peers' own documentation has it, or this service's faster way to the same pixels."""
        preprocessing = self.manifest.spec.preprocessing
        if self.decoder == "ours":
            return read_pixels(io.BytesIO(encoded), preprocessing)
        return resize_and_crop(as_seen(Image.open(io.BytesIO(encoded))), preprocessing)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        feed = {self.manifest.input.name: pixels[np.newaxis]}
        logits: NDArray[np.float32] = self.session.run([self.manifest.output.name], feed)[0][0]
        return logits

    def most_probable(self, logits: NDArray[np.float32]) -> list[Prediction]:
        exponentials = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = exponentials / exponentials.sum()
        best = np.argsort(-logits, kind="stable")[:TOP_K]
        return [
            {
                "label": self.manifest.labels[index],
                "index": int(index),
                "probability": round(float(probabilities[index]), 6),
            }
            for index in best
        ]
