"""Class activation maps: what in a photograph speaks for a class. Opened when somebody first asks.

Always by ONNX Runtime on the CPU, whatever serves the variant: they are for people, one at a time, and an engine has
none. The session is a second one, with weights of its own in memory, which a service that nobody asks does without.
"""

from __future__ import annotations

from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from export.artifact import CLASS_MAPS_FILE, Manifest, command_of
from serving.answers import Explanation
from serving.errors import RequestError
from serving.predictions import most_probable
from serving.runners.base import Runner
from serving.runners.choice import open_on_cpu
from serving.shares import Shares
from serving.threads import Threads
from serving.work import Moments


class Explainer:
    """Of one variant; `lane` takes work for it."""

    def __init__(self, folder: Path, manifest: Manifest, intra_op_threads: int, threads: Threads) -> None:
        self.folder, self.manifest, self.intra_op_threads = folder, manifest, intra_op_threads
        self.lane = Shares(self, threads)
        self.opening = Lock()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 pixels [N, crop, crop, 3] -> class maps [N, classes, h, w]."""
        with self.opening:  # two first requests at once would open two sessions
            runner = self.runner
        return runner.infer(images)

    @cached_property
    def runner(self) -> Runner:
        manifest = self.manifest.model_copy(update={"output": self.manifest.class_maps})
        return open_on_cpu(self.folder / CLASS_MAPS_FILE, manifest, self.intra_op_threads)

    def refuse_absence(self) -> None:
        """Raises RequestError where the artifact is from before there were class maps."""
        if self.manifest.class_maps is None:
            raise RequestError(
                HTTPStatus.NOT_FOUND,
                "no_heat_map",
                f"{self.manifest.variant} was exported without class maps; export it again and serve what that prints: "
                f"{command_of(self.manifest)}",
            )


def explained(
    manifest: Manifest, version: str, maps: NDArray[np.float32], index: int | None, top_k: int, moments: Moments
) -> Explanation:
    """Maps [classes, h, w] of one image; `index` None is the class that it is taken for."""
    logits = maps.mean((1, 2))
    chosen = int(logits.argmax()) if index is None else index
    preprocessing = manifest.spec.preprocessing
    return {
        "variant": manifest.variant,
        "version": version,
        "trained": manifest.trained,
        "index": chosen,
        "label": manifest.labels[chosen],
        "logit": float(logits[chosen]),
        "map": maps[chosen].tolist(),
        "minimum": float(maps[chosen].min()),
        "maximum": float(maps[chosen].max()),
        "crop": preprocessing.crop / preprocessing.resize,
        "predictions": most_probable(logits, manifest.labels, top_k),
        "timings_ms": moments.timings_ms(),
    }
