"""ONNX Runtime's session on CUDA, over host memory."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from tests.host_gpu.runtime import HostCudart

FAILURE = "CUDA failure 700: an illegal memory access"


class HostBinding:
    """What onnxruntime.IOBinding is told."""

    def bind_input(self, name: str, device: str, number: int, dtype: type, shape: Any, pointer: int) -> None:
        assert (name, device, number, dtype) == ("images", "cuda", 0, np.uint8)
        self.shape, self.source = tuple(shape), pointer

    def bind_output(self, name: str, device: str, number: int, dtype: type, shape: Any, pointer: int) -> None:
        assert (name, device, number, dtype) == ("logits", "cuda", 0, np.float32)
        self.sink = pointer


class HostSession:
    """onnxruntime.InferenceSession on CUDA, as `on_cuda` opens it: its graph is of one binding, and of one thread.

    Its stream and the memory that it works on have to outlive it. Where it `fails`, it raises FAILURE.
    """

    fails = False

    def __init__(self, path: Path, cudart: HostCudart, stream: int) -> None:
        self.real, self.cudart, self.stream = onnxruntime.InferenceSession(path), cudart, stream
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.captured: set[tuple[int, tuple[int, ...]]] = set()  # threads and shapes
        self.bound: set[int] = set()
        cudart.sessions.add(self)

    def io_binding(self) -> HostBinding:
        return HostBinding()

    def run_with_iobinding(self, binding: HostBinding, options: onnxruntime.RunOptions) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if self.fails:
            raise Fail(FAILURE)
        self.captured.add((threading.get_ident(), binding.shape))
        self.bound |= {binding.source, binding.sink}
        assert (len(self.captured), len(self.bound)) == (1, 2)

        def compute() -> None:
            source = self.cudart.memory[binding.source]
            images = np.frombuffer(source, np.uint8, int(np.prod(binding.shape))).reshape(binding.shape)
            (logits,) = self.real.run(None, {"images": images})
            ctypes.memmove(self.cudart.memory[binding.sink], logits.ctypes.data, logits.nbytes)

        self.cudart.streams[self.stream].add(compute)
