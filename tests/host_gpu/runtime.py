"""CUDA's runtime over host memory."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.host_gpu import cudart

OK = cudart.cudaError_t.cudaSuccess
Work = Callable[[], None]


class Stream:
    """Work in the order of its arrival; none of it before `cudaStreamSynchronize`, unless it is captured."""

    def __init__(self) -> None:
        self.pending: list[Work] = []
        self.captured: list[Work] | None = None

    def __int__(self) -> int:
        return id(self)

    def add(self, *work: Work) -> None:
        (self.pending if self.captured is None else self.captured).extend(work)


class HostCudart:
    """The module `cuda.bindings.runtime`, as far as ours calls it. Once it `is_dead`, every call says so."""

    is_dead = False

    def __init__(self, compute_capability: str = "8.9", devices: int = 1) -> None:
        major, minor = map(int, compute_capability.split("."))
        self.properties = SimpleNamespace(name=b"Host GPU\0\0", major=major, minor=minor, totalGlobalMem=24 << 30)
        self.devices = devices
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.sessions: weakref.WeakSet[Any] = weakref.WeakSet()
        self.objects = 0
        self.threads: set[int] = set()
        self.launches = self.clock = 0

    def __getattribute__(self, name: str) -> Any:
        if name in vars(HostCudart) and name.startswith("cuda") and name != "cudaGetErrorString" and self.is_dead:
            return lambda *_: (cudart.cudaError_t.cudaErrorLaunchFailure, None)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        """Enumerations and constants are the real ones."""
        if name.startswith("cuda") and callable(getattr(cudart, name)) and not isinstance(getattr(cudart, name), type):
            raise AttributeError(f"{name} is real, and nothing stands for it here")
        return getattr(cudart, name)

    @property
    def leaks(self) -> int:
        return len(self.memory) + len(self.pinned) + len(self.streams) + self.objects

    def cudaGetErrorString(self, error: Any) -> Any:
        return cudart.cudaGetErrorString(error)

    def cudaGetDeviceCount(self) -> Any:
        return (OK, self.devices) if self.devices else (cudart.cudaError_t.cudaErrorNoDevice, None)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return OK, self.properties

    def cudaSetDevice(self, device: int) -> Any:
        self.threads.add(threading.get_ident())
        return (OK,)

    def take(self, kind: dict[int, Any], size: int) -> Any:
        assert threading.get_ident() in self.threads
        buffer = (ctypes.c_ubyte * size).from_buffer(bytearray(b"\xab" * size))
        kind[ctypes.addressof(buffer)] = buffer
        return OK, ctypes.addressof(buffer)

    def cudaMalloc(self, size: int) -> Any:
        return self.take(self.memory, size)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        return self.take(self.pinned, size)

    def cudaFree(self, pointer: int) -> Any:
        assert not [session for session in self.sessions if pointer in session.bound]
        del self.memory[pointer]
        return (OK,)

    def cudaFreeHost(self, pointer: int) -> Any:
        del self.pinned[pointer]
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == cudart.cudaStreamNonBlocking  # others wait for the default stream, which is torch's
        stream = Stream()
        self.streams[int(stream)] = stream
        return OK, stream

    def cudaStreamDestroy(self, stream: Stream) -> Any:
        assert not [session for session in self.sessions if session.stream == int(stream)]
        del self.streams[int(stream)]
        return (OK,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: Stream) -> Any:
        up = kind == cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        kinds = (self.memory, self.pinned) if up else (self.pinned, self.memory)
        for pointer, known in zip((target, source), kinds, strict=True):
            assert size <= len(known[pointer])
        stream.add(lambda: self.work(lambda: ctypes.memmove(target, source, size)))
        return (OK,)

    def work(self, kernel: Callable[[], object]) -> None:
        kernel()
        self.clock += 1

    def cudaDeviceSynchronize(self) -> Any:
        for stream in self.streams.values():
            self.cudaStreamSynchronize(stream)
        return (OK,)

    def cudaStreamSynchronize(self, stream: Stream) -> Any:
        assert stream.captured is None
        pending, stream.pending = stream.pending, []
        for work in pending:
            work()
        return (OK,)

    def cudaStreamBeginCapture(self, stream: Stream, mode: Any) -> Any:
        assert mode == cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads load models
        assert not stream.pending
        stream.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: Stream) -> Any:
        graph, stream.captured = stream.captured, None
        self.objects += 1
        return OK, graph

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> Any:
        self.objects += 1
        return OK, graph

    def cudaGraphDestroy(self, graph: list[Work]) -> Any:
        self.objects -= 1
        return (OK,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaEventCreate(self) -> Any:
        self.objects += 1
        return OK, SimpleNamespace(at=None)

    def cudaEventDestroy(self, event: Any) -> Any:
        self.objects -= 1
        return (OK,)

    def cudaEventRecord(self, event: Any, stream: Stream) -> Any:
        stream.add(lambda: setattr(event, "at", self.clock))
        event.stream = stream
        return (OK,)

    def cudaEventSynchronize(self, event: Any) -> Any:
        return self.cudaStreamSynchronize(event.stream)

    def cudaEventElapsedTime(self, begun: Any, ended: Any) -> Any:
        return OK, float(ended.at - begun.at)

    def cudaGraphLaunch(self, graph: list[Work], stream: Stream) -> Any:
        assert threading.get_ident() in self.threads
        self.launches += 1
        stream.add(*graph)
        return (OK,)
