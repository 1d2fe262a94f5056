"""BentoML as its documentation shows it: an API method that takes a Pillow image and returns a dictionary.

All is left at its default but the number of threads, which is 1. The image is positional-only: so BentoML takes it as
the raw body.
"""

from __future__ import annotations

from typing import Any

import bentoml
from PIL.Image import Image

from loadtests.serving_bench.peers.graph import Graph, threads


@bentoml.service(workers=1, threads=threads())
class Classify:
    def __init__(self) -> None:
        self.graph = Graph()

    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(self, image: Image, /) -> dict[str, Any]:
        return {"predictions": self.graph.classify_opened(image)}
