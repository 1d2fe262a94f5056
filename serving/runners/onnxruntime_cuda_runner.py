"""ONNX Runtime on a GPU behind the promise of `Runner`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from export.artifact import Manifest
from export.bound_session import BoundSession
from export.buckets import bucket_for, buckets_of, in_parts
from export.cuda import Cuda, DeviceError
from export.graph_session import RUNTIME

logger = logging.getLogger("bentoml.serve")


class OnnxRuntimeCudaRunner:
    """A session for each bucket of batches, and one thread that opens and runs them all.

    Since 1.20 ONNX Runtime plans every convolution anew when a session's batch is not as large as its last one
    (https://github.com/microsoft/onnxruntime/issues/23006), and a CUDA graph is of one size and belongs to one thread.
    docs/gpu.md has what either gains on an H100. While one is captured no other thread may allocate on the GPU:
    runners are opened one after another, before any serves.
    """

    engine = None
    runtime = RUNTIME

    def __init__(self, open_session: Callable[[int], Any], manifest: Manifest, cuda: Cuda) -> None:
        self.cuda = cuda
        self.fault: str | None = None
        self.device = f"cuda:0, {cuda}"
        self.buckets = buckets_of(manifest.max_batch_size)
        self.sessions: dict[int, BoundSession] = {}
        self.thread = ThreadPoolExecutor(1, "onnxruntime-cuda")
        self.stack = ExitStack()
        with ExitStack() as opening:
            opening.callback(self.close)
            begun = time.perf_counter()
            for bucket in self.buckets:
                self.sessions[bucket] = self.thread.submit(self.opened, open_session, bucket).result()
                self.infer(self.sessions[bucket].pixels)  # plans and captures, before anybody waits for it
            took = time.perf_counter() - begun
            opening.pop_all()
        logger.info("%s: opened for batches of %s in %.1f s", manifest.variant, list(self.sessions), took)

    def opened(self, open_session: Callable[[int], Any], bucket: int) -> BoundSession:
        return self.stack.enter_context(closing(BoundSession(open_session, bucket, self.cuda)))

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.thread.submit(self.run, images).result()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """For its own thread alone, as all below it."""
        try:
            return in_parts(images, self.buckets[-1], self.run_bucket)
        except Exception as error:  # noqa: BLE001  its exceptions have no common base but this
            self.examine()
            failed = DeviceError(f"{self.runtime} fails on {self.device}: {error}")
        raise failed  # out here, since the other's traceback would keep a session beyond its stream

    def run_bucket(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.sessions[bucket_for(len(images), self.buckets)].run(images)

    def examine(self) -> None:
        """Tell a GPU that has failed for good from what passes, such as memory that others have."""
        try:
            self.cuda.check()
        except DeviceError as error:
            self.fault = str(error)

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)  # what it runs uses what is freed next
        self.sessions.clear()
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
