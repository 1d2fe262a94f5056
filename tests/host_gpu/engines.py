"""TensorRT-RTX and TensorRT over host memory, and a machine that has one of them."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from export.artifact import Runtime
from export.cuda import Cuda
from serving.runners.machine import Machine
from tests.host_gpu import tensorrt_rtx
from tests.host_gpu.runtime import HostCudart

VERSION: str = tensorrt_rtx.__version__
RTX_ALONE = {"get_engine_validity", "engine_header_size", "create_runtime_cache", "set_runtime_cache",
             "dynamic_shapes_kernel_specialization_strategy", "is_stream_capturable"}  # fmt: skip


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
