"""ONNX Runtime, on the CPU or on a GPU, and never on one in place of the other."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.artifact import GRAPH_FILE, ArtifactError, Manifest, Precision
from export.cuda import Cuda, UnavailableError


class OnnxRuntimeRunner:
    """One session; ONNX Runtime's `run` is safe to call from several threads."""

    engine = None

    def __init__(self, session: Any, manifest: Manifest, device: str) -> None:
        self.session = session
        self.input, self.output = manifest.input.name, manifest.output.name
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.device = device

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run([self.output], {self.input: images})[0]
        return logits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self.session


def on_cpu(folder: Path, manifest: Manifest, intra_op_threads: int) -> OnnxRuntimeRunner:
    """Raises ArtifactError where ONNX Runtime cannot open the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    path = folder / GRAPH_FILE
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        raise ArtifactError(f"{path}: ONNX Runtime cannot open it ({error})") from error
    return OnnxRuntimeRunner(session, manifest, "cpu")


def on_cuda(folder: Path, manifest: Manifest, cuda: Cuda) -> OnnxRuntimeRunner:
    """By itself ONNX Runtime logs a line and runs on the CPU where CUDA fails, or for single nodes that lack a kernel.

    Raises:
        UnavailableError: not every node would run on the GPU.
    """
    return OnnxRuntimeRunner(cuda_session(folder / GRAPH_FILE, manifest.precision), manifest, f"cuda:0, {cuda}")


def cuda_session(path: Path, precision: Precision) -> Any:
    """A session whose every node runs on the GPU."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    tf32 = "0" if precision is Precision.FP32 else "1"  # on by default: it keeps 10 bits of a mantissa
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls(directory="")  # CUDA's libraries from where pip puts them
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[("CUDAExecutionProvider", {"use_tf32": tf32})])
        session.disable_fallback()
        used = session.get_providers()[0]
    except Exception as error:  # its exceptions have no common base but this
        raise UnavailableError(f"{path}: ONNX Runtime does not run it on CUDA alone ({error})") from error
    if used != "CUDAExecutionProvider":
        raise UnavailableError(f"{path}: ONNX Runtime would run it with {used}, not on the GPU")
    return session
