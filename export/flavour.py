"""NVIDIA's two TensorRTs, which are one API: chosen by name, never one in the other's place. Torch-free."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from export.artifact import Runtime
from export.cuda import UnavailableError

Watch = Callable[[str, int, int], None]
OLDEST = {Runtime.TENSORRT: (10, 16), Runtime.TENSORRT_RTX: (1, 2)}  # stream capture needs that of TensorRT-RTX
PORTABLE_SINCE = (8, 0)  # TensorRT-RTX's engines without a compute capability: Ampere and later
RTX_GPUS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # the compute capabilities that TensorRT-RTX 1.7 knows
ONNXRUNTIME_FOR_CPUS = "the installed onnxruntime is for CPUs (pip uninstall onnxruntime; pip install onnxruntime-gpu)"
INSTALL = {Runtime.TENSORRT: "pip install tensorrt", Runtime.TENSORRT_RTX: "pip install tensorrt-rtx"}


def load(flavour: Runtime) -> Any:
    """The Python module of a flavour.

    Raises:
        UnavailableError: it is not installed, not usable, or too old.
    """
    try:
        module = importlib.import_module(str(flavour))
    except (ImportError, OSError) as error:  # the module without its libraries is an OSError
        raise UnavailableError(f"{flavour} is not installed ({error}): {INSTALL[flavour]}") from error
    found = tuple(int(part) for part in module.__version__.split(".")[:2])
    if found < OLDEST[flavour]:
        oldest = ".".join(map(str, OLDEST[flavour]))
        raise UnavailableError(f"{flavour} is {module.__version__}, expected at least {oldest}: {INSTALL[flavour]} -U")
    return module


def no_kernels(flavour: Runtime, compute_capability: str) -> str | None:
    """Why a flavour runs on no GPU of a kind; None where it does."""
    if flavour is Runtime.TENSORRT_RTX and compute_capability not in RTX_GPUS:
        return f"tensorrt_rtx runs on compute capability {', '.join(RTX_GPUS)}, here is {compute_capability}"
    return None


def runs_portable(compute_capability: str) -> bool:
    """Whether a GPU runs TensorRT-RTX's engines that were built for none in particular."""
    return tuple(map(int, compute_capability.split("."))) >= PORTABLE_SINCE


def made(kind: Any, log: Any) -> Any:
    """A builder or runtime; raises UnavailableError where TensorRT cannot make one, which takes a driver that fits."""
    try:
        return kind(log)
    except TypeError as error:
        raise UnavailableError(f"TensorRT makes no {kind.__name__} here: {log}") from error


def messages(module: Any) -> Any:
    """A logger for TensorRT that keeps its errors in a list, `found`, and prints nothing; its warnings are many."""

    class Messages(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.found: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in {module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR}:
                self.found.append(text)

        def __str__(self) -> str:
            return "; ".join(self.found) or "it gives no reason"

    return Messages()


def monitor(module: Any, watch: Watch) -> Any:
    """What TensorRT tells of a build that takes minutes: a phase, the steps of it that are done, and all of them."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.interrupted: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
            self.steps[phase] = steps
            watch(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                watch(phase, step + 1, self.steps[phase])
            except BaseException as error:  # noqa: BLE001  TensorRT would print it and go on; who builds raises it
                self.interrupted = error
            return self.interrupted is None

        def phase_finish(self, phase: str) -> None:
            watch(phase, self.steps[phase], self.steps[phase])

    return Monitor()
