"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.artifact import ArtifactError, Manifest


class OnnxRuntimeRunner:
    """One session; ONNX Runtime's `run` is safe to call from several threads."""

    runtime = f"onnxruntime {onnxruntime.__version__}"
    device = "cpu"

    def __init__(self, folder: Path, manifest: Manifest, intra_op_threads: int) -> None:
        (name,) = manifest.files
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base but this
            raise ArtifactError(f"{folder / name}: ONNX Runtime cannot open it ({error})") from error
        self.input, self.output = manifest.input.name, manifest.output.name

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run([self.output], {self.input: images})[0]
        return logits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self.session
