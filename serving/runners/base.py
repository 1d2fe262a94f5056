"""The promise that every runtime keeps."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from export.artifact import Manifest


class Runner(AbstractContextManager["Runner"], Protocol):
    """An open model. `infer` may be called from several threads at once; leaving the context closes it."""

    runtime: str
    device: str

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 pixels [N, crop, crop, 3] -> logits [N, classes]."""
        ...

    def __enter__(self) -> Self: ...


def open_runner(folder: Path, manifest: Manifest, *, intra_op_threads: int) -> Runner:
    """Open the runtime that the artifact was made for."""
    from serving.runners.onnxruntime_runner import OnnxRuntimeRunner  # noqa: PLC0415  a runtime loads when it is asked for

    return OnnxRuntimeRunner(folder, manifest, intra_op_threads)
