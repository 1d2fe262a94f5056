"""The CUDA runtime, as much of it as running an engine takes, over NVIDIA's `cuda-bindings`. Torch-free."""

from __future__ import annotations

import ctypes
import math
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class UnavailableError(RuntimeError):
    """This machine lacks what was asked for: a package, a driver, a GPU."""


class DeviceError(RuntimeError):
    """What was open failed at work: a GPU, or a runtime."""


class Cuda:
    """The first GPU that `CUDA_VISIBLE_DEVICES` leaves. `runtime` is the module `cuda.bindings.runtime`.

    Pointers, streams and graphs are plain integers and the binding's own objects; who makes one frees it.
    """

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        error, count = runtime.cudaGetDeviceCount()
        if error != runtime.cudaError_t.cudaSuccess or not count:
            old = error == runtime.cudaError_t.cudaErrorInsufficientDriver
            hint = "no NVIDIA driver, or one too old" if old else self.explain(error)
            raise UnavailableError(f"no usable CUDA device ({hint})")
        properties = self.call("cudaGetDeviceProperties", 0)
        self.name: str = properties.name.split(b"\0")[0].decode()
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.bytes = int(properties.totalGlobalMem)

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.compute_capability}"

    def call(self, name: str, *arguments: object) -> Any:
        """Call a function of the CUDA runtime; returns its one result, if it has any."""
        error, *results = getattr(self.runtime, name)(*arguments)
        if error != self.runtime.cudaError_t.cudaSuccess:
            raise DeviceError(f"{name}: {self.explain(error)}")
        return results[0] if results else None

    def explain(self, error: Any) -> str:
        _, text = self.runtime.cudaGetErrorString(error)
        return f"{error.name}: {text.decode()}"

    def use(self) -> None:
        """Let this thread speak to the GPU; every thread has to."""
        self.call("cudaSetDevice", 0)

    def allocate(self, size: int) -> int:
        """Device memory, in bytes."""
        return int(self.call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        self.call("cudaFree", pointer)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Host memory that the GPU copies from and to by itself; to be freed by `free_pinned`."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        pointer = int(self.call("cudaHostAlloc", size, self.runtime.cudaHostAllocDefault))
        content = memoryview((ctypes.c_byte * size).from_address(pointer))
        array: NDArray[Any] = np.ndarray(shape, dtype, content)
        return array

    def free_pinned(self, array: NDArray[Any]) -> None:
        self.call("cudaFreeHost", array.ctypes.data)

    def mirrored(self, stack: ExitStack, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], int]:
        """`pinned` memory and as much on the device, until the stack closes."""
        host = self.pinned(shape, dtype)
        stack.callback(self.free_pinned, host)
        device = self.allocate(host.nbytes)
        stack.callback(self.free, device)
        return host, device

    def stream(self) -> Any:
        return self.call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking)

    def check(self) -> None:
        """Raises DeviceError where the GPU has failed for good: whoever asks gets the same error from then on."""
        self.call("cudaDeviceSynchronize")

    def upload(self, device: int, host: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous array to the device, in the stream's order."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, kind, stream)

    def download(self, host: NDArray[Any], device: int, stream: Any) -> None:
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, kind, stream)

    def synchronize(self, stream: Any) -> None:
        self.call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: Any) -> None:
        """What this thread gives the stream from now on is recorded, not run."""
        self.call("cudaStreamBeginCapture", stream, self.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: Any) -> Any:
        """Returns a graph to be launched."""
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self.call("cudaGraphLaunch", graph, stream)

    def event(self) -> Any:
        """A moment on a stream, to be recorded; to be freed by `cudaEventDestroy`."""
        return self.call("cudaEventCreate")

    def record(self, event: Any, stream: Any) -> None:
        self.call("cudaEventRecord", event, stream)

    def elapsed_ms(self, begun: Any, ended: Any) -> float:
        """Between two recorded events, once the second has passed."""
        self.call("cudaEventSynchronize", ended)
        return float(self.call("cudaEventElapsedTime", begun, ended))


def open_cuda() -> Cuda:
    """Raises UnavailableError where there is no GPU, no driver for it, or no `cuda-bindings`."""
    try:
        from cuda.bindings import runtime  # noqa: PLC0415  absent where no GPU is meant to be
    except ImportError as error:
        raise UnavailableError(f"cuda-bindings is not installed ({error}): pip install cuda-bindings") from error
    return Cuda(runtime)


def cuda_or_reason() -> Cuda | UnavailableError:
    """The GPU, or the reason why there is none."""
    try:
        return open_cuda()
    except UnavailableError as error:
        return error
