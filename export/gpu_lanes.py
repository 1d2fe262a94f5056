"""What runs a network on a GPU: engines, ONNX Runtime, torch. Each lane takes page-locked pixels to page-locked logits.

Upload, inference and download go onto one stream and are timed there, by CUDA's events. Engines and max-autotune are
CUDA graphs of all three, whose times have none of the host's in them. ONNX Runtime's graph is of inference alone, and
torch's eager mode launches kernel by kernel: where the GPU waits for the next (small networks, small batches), their
times are the host's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn.utils import fuse_conv_bn_eval

from export.artifact import Precision, Runtime
from export.bound_session import BoundSession
from export.cuda import Cuda, UnavailableError
from export.engine_cache import EngineCache
from export.engine_session import EngineSession
from export.flavour import ONNXRUNTIME_FOR_CPUS, load, no_kernels
from export.graph_session import CUDA_PROVIDER, on_cuda, providers
from export.to_engine import profile_for, target, to_engine
from export.to_onnx import ServedGraph
from models.spec import Preprocessing

Pixels = NDArray[np.uint8]
DEVICE = "cuda"  # torch's


class GpuRuntime(StrEnum):
    """By the names that people call them."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"
    ONNXRUNTIME = "onnxruntime-cuda"
    TORCH = "torch"  # eager
    COMPILED = "torch.compile"  # max-autotune, channels last, BatchNormalization folded where torch can


FLAVOURS = {GpuRuntime.TENSORRT: Runtime.TENSORRT, GpuRuntime.TENSORRT_RTX: Runtime.TENSORRT_RTX}
OF_TORCH = {GpuRuntime.TORCH, GpuRuntime.COMPILED}
LAUNCHED_BY_HOST = {GpuRuntime.TORCH: "each kernel", GpuRuntime.ONNXRUNTIME: "upload, graph and download"}


def precisions(runtime: GpuRuntime) -> tuple[Precision, ...]:
    return tuple(Precision) if runtime in FLAVOURS else (Precision.FP32, Precision.FP16)


@dataclass(frozen=True)
class Lane:
    """`fill` takes pixels for the next `launch`, which only puts work on the stream; `logits` has them after a wait."""

    stream: Any
    fill: Callable[[Pixels], None]
    launch: Callable[[], None]
    logits: Callable[[], NDArray[np.float32]]


def missing(runtime: GpuRuntime, cuda: Cuda | UnavailableError) -> str | None:
    """Why a runtime cannot run here; None where it can."""
    if isinstance(cuda, UnavailableError):
        return str(cuda)
    if runtime in FLAVOURS:
        return flavour_missing(FLAVOURS[runtime], cuda)
    if runtime is GpuRuntime.ONNXRUNTIME:
        return None if CUDA_PROVIDER in providers() else ONNXRUNTIME_FOR_CPUS
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    without_triton = runtime is GpuRuntime.COMPILED and importlib.util.find_spec("triton") is None
    return "torch.compile needs triton on a GPU" if without_triton else None


def flavour_missing(flavour: Runtime, cuda: Cuda) -> str | None:
    try:
        load(flavour)
    except UnavailableError as error:
        return str(error)
    return no_kernels(flavour, cuda.compute_capability)


@dataclass(frozen=True)
class Bench:
    """One batch size on one GPU."""

    cuda: Cuda
    batch: int
    largest_batch: int
    cache: EngineCache

    @contextmanager
    def graph_lane(self, runtime: GpuRuntime, graph: Path, precision: Precision) -> Iterator[Lane]:
        with ExitStack() as stack:
            if runtime in FLAVOURS:
                yield self.engine(stack, FLAVOURS[runtime], graph)
            else:
                yield self.onnxruntime(stack, graph, precision)

    def engine(self, stack: ExitStack, flavour: Runtime, graph: Path) -> Lane:
        """What the service runs: the CUDA graph of a bucket."""
        here = target(flavour, self.cuda.compute_capability, self.cuda)
        content, engine = to_engine(graph, flavour, profile_for(self.largest_batch), here, self.cache)
        session = stack.enter_context(
            EngineSession(
                content,
                engine,
                self.cuda,
                load(flavour),
                source=str(graph),
                rebuild="run it again",
                kernels=self.cache.kernels(content, self.cuda.compute_capability),
            )
        )
        pixels, logits = (session.host[name][: self.batch] for name in (session.input, session.output))
        return Lane(session.stream, lambda images: np.copyto(pixels, images), session.graphs[self.batch], logits.copy)

    def onnxruntime(self, stack: ExitStack, graph: Path, precision: Precision) -> Lane:
        """What the service runs, for a bucket of this size."""
        session = stack.enter_context(
            closing(BoundSession(lambda stream: on_cuda(graph, precision, stream), self.batch, self.cuda))
        )
        return Lane(
            session.stream,
            lambda images: np.copyto(session.pixels, images),
            session.launch,
            session.logits.copy,
        )

    @contextmanager
    def torch_lane(self, runtime: GpuRuntime, graph: ServedGraph, precision: Precision) -> Iterator[Lane]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision is not Precision.FP32
        torch.backends.cudnn.benchmark = True
        network = lowered(graph, precision, fold=runtime is GpuRuntime.COMPILED).to(DEVICE)
        run = torch.compile(network, mode="max-autotune") if runtime is GpuRuntime.COMPILED else network
        crop = graph.preprocessing.crop
        pixels = torch.empty((self.batch, crop, crop, 3), dtype=torch.uint8, pin_memory=True)
        logits = torch.empty((self.batch, graph.network.fc.out_features), pin_memory=True)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

        def launch() -> None:
            with torch.inference_mode(), torch.cuda.stream(stream):
                logits.copy_(run(pixels.to(DEVICE, non_blocking=True)), non_blocking=True)

        def fill(images: Pixels) -> None:
            pixels.copy_(torch.from_numpy(images))

        try:
            launch()  # compiles
            stream.synchronize()
            yield Lane(stream.cuda_stream, fill, launch, lambda: logits.numpy().copy())
        finally:
            torch.compiler.reset()  # or what was compiled before counts against the next
            torch.cuda.empty_cache()


class Lowered(nn.Module):
    """A network in any float precision between uint8 pixels and float32 logits, channels last."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", (1 / (255 * std)).to(dtype))
        self.register_buffer("offset", (mean / std).to(dtype))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(self.scale.dtype)
        logits: Tensor = self.network(pixels * self.scale - self.offset)
        return logits.float()


def lowered(graph: ServedGraph, precision: Precision, *, fold: bool) -> Lowered:
    """A copy of the network; `fold` lets torch put into convolutions what it can."""
    network: nn.Module = deepcopy(graph.network).eval()
    if fold:
        network = folded_by_torch(network)
    return Lowered(network, graph.preprocessing, torch.float16 if precision is Precision.FP16 else torch.float32).eval()


def folded_by_torch(network: nn.Module) -> nn.Module:
    """Each BatchNormalization that alone reads a convolution, into it: all of a post-activation network."""
    traced = symbolic_trace(network)
    modules = dict(traced.named_modules())
    for node in [node for node in traced.graph.nodes if node.op == "call_module"]:
        norm = modules[str(node.target)]
        source: Any = node.args[0]
        if not isinstance(norm, nn.BatchNorm2d) or source.op != "call_module" or len(source.users) > 1:
            continue
        convolution = modules[str(source.target)]
        if isinstance(convolution, nn.Conv2d):
            traced.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.recompile()
    return traced
