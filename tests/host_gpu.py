"""A GPU that is none: CUDA's runtime and TensorRT's over host memory, an engine being its graph run by ONNX Runtime.

It is strict where a GPU would corrupt or crash: streams run nothing before somebody waits, memory is garbage until
written, copies only go between memory of the right kinds, a thread has to choose its device, an engine's first run must
not be captured, what an engine runs with has to be alive, and all that was taken has to be given back. Its clock counts
the work that streams have done. Every name exists in the real bindings, or is an error.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from export.artifact import Runtime
from export.cuda import Cuda
from serving.runners.machine import Machine

NEEDED = "needs TensorRT-RTX and cuda-bindings, which are for Linux on x86-64"
tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason=NEEDED)
cudart = pytest.importorskip("cuda.bindings.runtime", reason=NEEDED)

VERSION: str = tensorrt_rtx.__version__
OK = cudart.cudaError_t.cudaSuccess
FAILURE = "CUDA failure 700: an illegal memory access"
RTX_ALONE = {"get_engine_validity", "engine_header_size", "create_runtime_cache", "set_runtime_cache",
             "dynamic_shapes_kernel_specialization_strategy", "is_stream_capturable"}  # fmt: skip
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
        self.sessions: weakref.WeakSet[HostSession] = weakref.WeakSet()
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


class HostContext:
    """tensorrt.IExecutionContext."""

    def __init__(self, engine: HostEngine, config: HostRuntimeConfig) -> None:
        self.owner, self.addresses, self.has_run, self.workspace = engine, {}, False, 0
        self.needs = [weakref.ref(each) for each in (self, config)] + engine.needs

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert len(self.owner.cudart.memory[pointer]) >= size >= self.owner.device_memory_size_v2
        self.workspace = pointer

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= self.owner.largest

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = self.owner.cudart.memory[pointer] and pointer
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.owner.capturable

    def execute_async_v3(self, stream: int) -> bool:
        queue = self.owner.cudart.streams[stream]
        assert self.workspace
        assert self.has_run or queue.captured is None
        self.has_run = True
        context, cudart = weakref.proxy(self), self.owner.cudart  # a graph does not keep its context alive
        queue.add(lambda: cudart.work(context.compute))
        return self.owner.works

    def compute(self) -> None:
        assert all(each() is not None for each in self.needs)
        self.owner.batches.append(self.shape[0])
        source, target = (self.addresses[name] for name in ("images", "logits"))
        images = np.ndarray(self.shape, np.uint8, (ctypes.c_ubyte * int(np.prod(self.shape))).from_address(source))
        (logits,) = self.owner.session.run(None, {"images": images.copy()})
        ctypes.memmove(target, logits.ctypes.data, logits.nbytes)


@dataclass
class HostRuntimeConfig:
    """tensorrt.IRuntimeConfig."""

    strategy: Any = None
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda content: None)

    def set_runtime_cache(self, cache: Any) -> bool:
        return True


@dataclass
class HostEngine:
    """tensorrt.ICudaEngine, of a graph with `images` and `logits`."""

    graph: Path
    cudart: HostCudart
    largest: int
    capturable: bool
    works: bool
    batches: list[int] = field(default_factory=list)
    needs: list[weakref.ref[Any]] = field(default_factory=list)
    num_io_tensors = 2
    device_memory_size_v2 = 4096

    @cached_property
    def session(self) -> Any:
        return onnxruntime.InferenceSession(self.graph, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return ("logits", "images")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return tensorrt_rtx.TensorIOMode.INPUT if name == "images" else tensorrt_rtx.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (tensor,) = self.session.get_inputs() if name == "images" else self.session.get_outputs()
        return (-1, *tensor.shape[1:])

    def get_tensor_dtype(self, name: str) -> Any:
        return tensorrt_rtx.uint8 if name == "images" else tensorrt_rtx.float32

    def create_runtime_config(self) -> HostRuntimeConfig:
        return HostRuntimeConfig()

    def create_execution_context(self, config: HostRuntimeConfig) -> HostContext:
        assert config.strategy == tensorrt_rtx.ExecutionContextAllocationStrategy.USER_MANAGED
        return HostContext(self, config)


class HostRuntime:
    """tensorrt.Runtime."""

    engine_header_size = 64

    def __init__(self, owner: HostTensorRt, logger: Any) -> None:
        self.owner, self.logger = owner, weakref.ref(logger)

    def get_engine_validity(self, header: bytes) -> tuple[Any, int]:
        validity = tensorrt_rtx.EngineValidity
        return (validity.VALID if self.owner.valid else validity.INVALID), int(
            tensorrt_rtx.EngineInvalidityDiagnostics.UNSUPPORTED_CC
        )

    def deserialize_cuda_engine(self, content: bytes) -> HostEngine | None:
        self.owner.engine.needs = [weakref.ref(self), self.logger]
        return self.owner.engine if self.owner.opens else None


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


CLASSES = {
    "IExecutionContext": HostContext,
    "IRuntimeConfig": HostRuntimeConfig,
    "ICudaEngine": HostEngine,
    "Runtime": HostRuntime,
}
OWN = {
    "owner", "addresses", "has_run", "workspace", "shape", "compute", "strategy", "graph", "cudart", "largest",
    "capturable", "works", "batches", "session", "needs", "logger",
}  # fmt: skip


class HostTensorRt:
    """The module `tensorrt_rtx`, or `tensorrt`, which lacks what is RTX's alone."""

    def __init__(
        self, graph: Path, cudart: HostCudart, flavour: Runtime = Runtime.TENSORRT_RTX, *, largest: int = 64,
        capturable: bool = True, opens: bool = True, valid: bool = True, works: bool = True,
    ) -> None:  # fmt: skip
        self.engine = HostEngine(graph, cudart, largest, capturable, works)
        self.flavour, self.opens, self.valid = flavour, opens, valid
        self.__version__ = tensorrt_rtx.__version__

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorrt_rtx, name)

    def Runtime(self, logger: Any) -> Any:
        runtime = HostRuntime(self, logger)
        return runtime if self.flavour is Runtime.TENSORRT_RTX else WithoutRtx(runtime)


class WithoutRtx:
    """An object of TensorRT, and all that comes from it, without what TensorRT-RTX alone has."""

    def __init__(self, real: Any) -> None:
        object.__setattr__(self, "real", real)

    def __getattr__(self, name: str) -> Any:
        if name in RTX_ALONE:
            raise AttributeError(name)
        found = getattr(self.real, name)
        return (lambda *given: wrapped(found(*map(unwrapped, given)))) if callable(found) else found

    def __setattr__(self, name: str, value: Any) -> None:
        assert name not in RTX_ALONE
        setattr(self.real, name, value)


def wrapped(value: Any) -> Any:
    return WithoutRtx(value) if isinstance(value, tuple(CLASSES.values())) else value


def unwrapped(value: Any) -> Any:
    return value.real if isinstance(value, WithoutRtx) else value


class HostMachine(Machine):
    """A machine with that GPU and one flavour of TensorRT."""

    def __init__(self, tensorrt: HostTensorRt) -> None:
        self.module = tensorrt

    @cached_property
    def cuda(self) -> Cuda:
        return Cuda(self.module.engine.cudart)

    def tensorrt(self, flavour: Runtime) -> Any:
        return self.module if flavour is self.module.flavour else super().tensorrt(flavour)
