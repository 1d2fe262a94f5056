"""ONNX Runtime's session on a GPU, for batches of one size. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.cuda import Cuda, DeviceError


class BoundSession:
    """A session on a stream of ours, with page-locked `pixels` [N, H, W, 3] and `logits` [N, classes], N the batch.

    `open_session` gets the stream; what it raises is handed on. A session that captures (`on_cuda`) is one CUDA graph
    from its second run on, which ONNX Runtime keeps for the thread that ran it: one thread opens and runs it, and
    another would capture it anew.

    Raises:
        DeviceError: CUDA fails. ONNX Runtime raises errors of its own.
    """

    def __init__(self, open_session: Callable[[int], Any], batch: int, cuda: Cuda) -> None:
        self.cuda = cuda
        self.stack = ExitStack()
        self.session: Any = None
        with ExitStack() as opening:
            opening.callback(self.close)
            cuda.use()
            self.stream = cuda.stream()
            self.stack.callback(cuda.call, "cudaStreamDestroy", self.stream)
            self.session = open_session(int(self.stream))
            (images,), (classes,) = self.session.get_inputs(), self.session.get_outputs()
            self.pixels, self.source = cuda.mirrored(self.stack, (batch, *images.shape[1:]), np.uint8)
            self.logits, self.sink = cuda.mirrored(self.stack, (batch, classes.shape[-1]), np.float32)
            self.binding = self.session.io_binding()
            self.binding.bind_input(images.name, "cuda", 0, np.uint8, self.pixels.shape, self.source)
            self.binding.bind_output(classes.name, "cuda", 0, np.float32, self.logits.shape, self.sink)
            self.asynchronous = onnxruntime.RunOptions()
            self.asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")
            opening.pop_all()

    def launch(self) -> None:
        """Put upload, inference and download onto the stream; `logits` has them after a wait."""
        self.cuda.upload(self.source, self.pixels, self.stream)
        self.session.run_with_iobinding(self.binding, self.asynchronous)
        self.cuda.download(self.logits, self.sink, self.stream)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 pixels [N, H, W, 3] -> logits [N, classes], N not above the batch."""
        self.pixels[: len(images)] = images  # what was there before pads the rest: rows do not mix
        self.launch()
        self.cuda.synchronize(self.stream)
        found: NDArray[np.float32] = self.logits[: len(images)].copy()
        return found

    def close(self) -> None:
        self.session = self.binding = None  # before its stream
        with suppress(DeviceError):  # a GPU that has failed takes nothing back
            self.stack.close()
