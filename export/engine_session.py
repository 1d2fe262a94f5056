"""An engine, opened: what onnxruntime.InferenceSession is to a graph. Torch-free.

One stream; pinned host buffers; for each bucket, a power of two, one execution context and one CUDA graph of upload,
inference and download. All contexts share one workspace, since one bucket runs at a time. A batch is padded to the next
bucket, a larger one than the profile allows is cut up.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from export.artifact import ArtifactError, Engine, Runtime
from export.buckets import bucket_for, buckets_of, in_parts
from export.cuda import Cuda, DeviceError
from export.engine_cache import known, remember
from export.flavour import made, messages, runs_portable

logger = logging.getLogger(__name__)


class EngineSession(AbstractContextManager["EngineSession"]):
    """`run` is for one thread at a time.

    `kernels` is a file that keeps what TensorRT-RTX compiled, so that the next start is quicker.

    Raises:
        ArtifactError: the engine is of another version or GPU, or damaged; `source` is named, and how to `rebuild`.
    """

    def __init__(
        self, content: bytes, engine: Engine, cuda: Cuda, tensorrt: Any, *, source: str, rebuild: str,
        kernels: Path | None = None,
    ) -> None:  # fmt: skip
        refuse_strangers(engine, cuda, tensorrt, source, rebuild)
        if (reason := tuned_elsewhere(engine, cuda)) is not None:
            logger.warning("%s: %s: it may run slower than it could; %s", source, reason, rebuild)
        self.cuda, self.tensorrt = cuda, tensorrt
        self.log = messages(tensorrt)  # TensorRT does not keep it alive
        self.stack = ExitStack()
        with ExitStack() as opening:
            opening.callback(self.close)
            cuda.use()
            self.engine = self.opened(content, engine.flavour, source, rebuild)
            self.buckets = buckets_of(engine.profile.maximum)
            self.contexts: list[Any] = []
            self.allocate()
            self.configure(engine.flavour, kernels)
            self.graphs = {bucket: self.prepared(bucket, rebuild) for bucket in self.buckets}
            if self.cache is not None and kernels is not None:
                remember(kernels, bytes(self.cache.serialize()))
            opening.pop_all()

    def opened(self, content: bytes, flavour: Runtime, source: str, rebuild: str) -> Any:
        self.runtime = made(self.tensorrt.Runtime, self.log)
        if flavour is Runtime.TENSORRT_RTX:
            validity, reasons = self.runtime.get_engine_validity(content[: self.runtime.engine_header_size])
            if validity == self.tensorrt.EngineValidity.INVALID:
                raise ArtifactError(
                    f"{source}: not valid on {self.cuda} ({self.spelled(reasons)}); {rebuild}; or update the driver"
                )
        engine = self.runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise ArtifactError(f"{source}: does not open on {self.cuda}: {self.log}; {rebuild}")
        return engine

    def spelled(self, reasons: int) -> str:
        """The names of TensorRT-RTX's bits."""
        kinds = self.tensorrt.EngineInvalidityDiagnostics
        names = [name for name in dir(kinds) if name.isupper() and int(getattr(kinds, name)) & reasons]
        return ", ".join(names) or str(reasons)

    def allocate(self) -> None:
        """Device and pinned host memory for the largest batch of each tensor, and the workspace."""
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        is_input = {name: self.engine.get_tensor_mode(name) == self.tensorrt.TensorIOMode.INPUT for name in names}
        (self.input,), (self.output,) = ([name for name in names if is_input[name] is kind] for kind in (True, False))
        self.workspace = self.cuda.allocate(max(self.engine.device_memory_size_v2, 1))
        self.stack.callback(self.cuda.free, self.workspace)
        self.host: dict[str, NDArray[Any]] = {}
        self.memory: dict[str, int] = {}
        for name in names:
            shape = (self.buckets[-1], *tuple(self.engine.get_tensor_shape(name))[1:])
            dtype = self.tensorrt.nptype(self.engine.get_tensor_dtype(name))
            self.host[name], self.memory[name] = self.cuda.mirrored(self.stack, shape, dtype)
        self.stream = self.cuda.stream()
        self.stack.callback(self.cuda.call, "cudaStreamDestroy", self.stream)

    def configure(self, flavour: Runtime, kernels: Path | None) -> None:
        """How contexts are made; TensorRT-RTX compiles kernels for each shape at once, and can keep them."""
        self.config, self.cache = self.engine.create_runtime_config(), None  # to live as long as their contexts
        self.config.set_execution_context_allocation_strategy(
            self.tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if flavour is not Runtime.TENSORRT_RTX:
            return
        strategies = self.tensorrt.DynamicShapesKernelSpecializationStrategy
        self.config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self.cache = self.config.create_runtime_cache()
        if kernels is not None and (content := known(kernels)):
            self.cache.deserialize(content)
        self.config.set_runtime_cache(self.cache)

    def prepared(self, bucket: int, rebuild: str) -> Any:
        """A CUDA graph of one bucket, or its context where the engine's work cannot be captured."""
        context = self.engine.create_execution_context(self.config)
        if context is None:
            raise ArtifactError(f"TensorRT makes no context for a batch of {bucket}: {self.log}")
        context.set_device_memory(self.workspace, self.engine.device_memory_size_v2)
        context.set_input_shape(self.input, (bucket, *self.host[self.input].shape[1:]))
        for name, pointer in self.memory.items():
            context.set_tensor_address(name, pointer)
        self.contexts.append(context)  # to live as long as the graph
        try:
            self.enqueue(bucket, context)  # what is set up at the first run must not be captured
            self.cuda.synchronize(self.stream)
            if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self.stream)):
                return lambda: self.enqueue(bucket, context)
            graph = self.captured(bucket, context)
        except DeviceError as error:
            raise ArtifactError(f"{error}, at a batch of {bucket}: {self.log}; {rebuild}") from error
        self.stack.callback(self.cuda.call, "cudaGraphExecDestroy", graph)
        return lambda: self.cuda.launch(graph, self.stream)

    def captured(self, bucket: int, context: Any) -> Any:
        self.cuda.begin_capture(self.stream)
        try:
            self.enqueue(bucket, context)
        except BaseException:
            with suppress(DeviceError):  # the first error is the one to tell
                self.cuda.call("cudaGraphExecDestroy", self.cuda.end_capture(self.stream))
            raise
        return self.cuda.end_capture(self.stream)

    def enqueue(self, bucket: int, context: Any) -> None:
        self.cuda.upload(self.memory[self.input], self.host[self.input][:bucket], self.stream)
        if not context.execute_async_v3(int(self.stream)):
            raise ArtifactError(f"TensorRT does not run a batch of {bucket}: {self.log}")
        self.cuda.download(self.host[self.output][:bucket], self.memory[self.output], self.stream)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 pixels [N, H, W, 3] -> logits [N, classes]."""
        self.cuda.use()
        return in_parts(images, self.buckets[-1], self.run_bucket)

    def run_bucket(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        bucket = bucket_for(len(images), self.buckets)
        self.host[self.input][: len(images)] = images  # what was there before pads the rest: rows do not mix
        self.graphs[bucket]()
        self.cuda.synchronize(self.stream)
        logits: NDArray[np.float32] = self.host[self.output][: len(images)].copy()
        return logits

    def close(self) -> None:
        with suppress(DeviceError):  # a GPU that has failed takes nothing back
            self.stack.close()
        self.graphs, self.contexts = {}, []
        self.config = self.cache = self.engine = self.runtime = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self


def misfit(engine: Engine, cuda: Cuda, tensorrt: Any) -> str | None:
    """What an engine was built for and what is here, where that differs."""
    if engine.version != tensorrt.__version__:
        return f"was built by {engine.flavour} {engine.version}, here is {tensorrt.__version__}"
    built_for = engine.compute_capability
    if built_for is None:
        fits = runs_portable(cuda.compute_capability)
        return None if fits else f"was built for compute capability 8.0 and later, here is {cuda}"
    same = built_for == cuda.compute_capability
    return None if same else f"was built for compute capability {built_for}, here is {cuda}"


def tuned_elsewhere(engine: Engine, cuda: Cuda) -> str | None:
    """Whose kernels an engine has, where that is another model of GPU; it runs on this one too."""
    same = engine.gpu in (None, cuda.name)
    return None if same else f"was built on {engine.gpu}, here is {cuda.name}"


def refuse_strangers(engine: Engine, cuda: Cuda, tensorrt: Any, source: str, rebuild: str) -> None:
    """Raises ArtifactError where an engine is for another version or compute capability than is here."""
    if (reason := misfit(engine, cuda, tensorrt)) is not None:
        raise ArtifactError(f"{source}: {reason}; {rebuild}")
