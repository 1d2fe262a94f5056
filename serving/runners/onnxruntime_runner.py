"""ONNX Runtime behind the promise of `Runner`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.artifact import Manifest
from export.cuda import Cuda, DeviceError


class OnnxRuntimeRunner:
    """One session; ONNX Runtime's `run` is safe to call from several threads."""

    engine = None

    def __init__(self, session: Any, manifest: Manifest, cuda: Cuda | None = None) -> None:
        self.session, self.cuda = session, cuda
        self.fault: str | None = None
        self.input, self.output = manifest.input.name, manifest.output.name
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.device = "cpu" if cuda is None else f"cuda:0, {cuda}"

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self.session.run([self.output], {self.input: images})[0]
        except Exception as error:  # its exceptions have no common base but this
            self.examine()
            raise DeviceError(f"{self.runtime} fails on {self.device}: {error}") from error
        return logits

    def examine(self) -> None:
        """Tell a GPU that has failed for good from what passes, such as memory that others have."""
        if self.cuda is None:
            return
        try:
            self.cuda.use()
            self.cuda.check()
        except DeviceError as error:
            self.fault = str(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self.session
