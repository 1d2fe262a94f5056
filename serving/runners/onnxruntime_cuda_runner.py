"""ONNX Runtime on a GPU behind the promise of `Runner`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.artifact import Manifest
from export.cuda import Cuda, DeviceError
from export.engine_session import bucket_for, buckets_of

logger = logging.getLogger("bentoml.serve")


class OnnxRuntimeCudaRunner:
    """A session for each bucket of batches, none of which ever sees a batch of another size.

    Since 1.20 ONNX Runtime plans every convolution anew when a session's batch is not as large as its last one
    (https://github.com/microsoft/onnxruntime/issues/23006): where batches are of any size, requests wait for plans.
    docs/gpu.md has what that seems to have cost on an H100.
    """

    engine = None

    def __init__(self, open_session: Callable[[], Any], manifest: Manifest, cuda: Cuda) -> None:
        self.cuda = cuda
        self.fault: str | None = None
        self.input, self.output = manifest.input.name, manifest.output.name
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.device = f"cuda:0, {cuda}"
        self.buckets = buckets_of(manifest.max_batch_size)
        self.sessions: dict[int, Any] = {}
        crop = manifest.spec.preprocessing.crop
        begun = time.perf_counter()
        for bucket in self.buckets:
            self.sessions[bucket] = open_session()
            self.run(np.zeros((bucket, crop, crop, 3), np.uint8))  # plans, before anybody waits for it
        took = time.perf_counter() - begun
        logger.info("%s: opened for batches of %s in %.1f s", manifest.variant, list(self.sessions), took)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        largest = self.buckets[-1]
        parts = [self.run(images[start : start + largest]) for start in range(0, len(images), largest)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What is missing to a bucket is filled with zeros: rows do not mix."""
        bucket = bucket_for(len(images), self.buckets)
        filled = images
        if len(images) < bucket:
            filled = np.zeros((bucket, *images.shape[1:]), np.uint8)
            filled[: len(images)] = images
        try:
            logits: NDArray[np.float32] = self.sessions[bucket].run([self.output], {self.input: filled})[0]
        except Exception as error:  # its exceptions have no common base but this
            self.examine()
            raise DeviceError(f"{self.runtime} fails on {self.device}: {error}") from error
        return logits[: len(images)]

    def examine(self) -> None:
        """Tell a GPU that has failed for good from what passes, such as memory that others have."""
        try:
            self.cuda.use()
            self.cuda.check()
        except DeviceError as error:
            self.fault = str(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sessions.clear()
