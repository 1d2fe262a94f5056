"""ONNX Runtime on the CPU behind the promise of `Runner`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from export.artifact import Manifest
from export.cuda import DeviceError
from export.graph_session import RUNTIME


class OnnxRuntimeRunner:
    """One session; ONNX Runtime's `run` is safe to call from several threads."""

    engine = None
    fault = None
    device = "cpu"
    runtime = RUNTIME

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self.session = session
        self.input, self.output = manifest.input.name, manifest.output.name

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self.session.run([self.output], {self.input: images})[0]
        except Exception as error:  # its exceptions have no common base but this
            raise DeviceError(f"{self.runtime} fails on {self.device}: {error}") from error
        return logits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self.session
