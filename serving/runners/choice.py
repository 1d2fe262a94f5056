"""Which runtime serves an artifact. What was asked for runs, or nothing does.

`auto` passes over what the machine or the artifact lacks, and says so. What is there and does not fit, such as an
engine of another GPU, stops the start: serving on something slower, unnoticed, is what people complain of most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.artifact import ENGINE_FILE, GRAPH_FILE, Manifest, Precision, Runtime, command_of
from export.cuda import UnavailableError
from export.engine_session import refuse_strangers
from export.flavour import ONNXRUNTIME_FOR_CPUS, no_kernels
from export.to_engine import rebuild_with
from serving.config import Engines, ServingRuntime, Settings
from serving.runners.base import Runner
from serving.runners.machine import Machine

FLAVOURS = {
    ServingRuntime.TENSORRT: Runtime.TENSORRT,
    ServingRuntime.TENSORRT_RTX: Runtime.TENSORRT_RTX,
}
BEST_FIRST = tuple(runtime for runtime in ServingRuntime if runtime is not ServingRuntime.AUTO)


@dataclass(frozen=True)
class Choice:
    """What will run an artifact, and why each better runtime will not."""

    runtime: ServingRuntime
    passed_over: dict[ServingRuntime, str]

    def __str__(self) -> str:
        reasons = "; ".join(f"not {runtime}: {reason}" for runtime, reason in self.passed_over.items())
        return f"{self.runtime}{f' ({reasons})' if reasons else ''}"


def choose(folder: Path, manifest: Manifest, settings: Settings, machine: Machine) -> Choice:
    """Without opening anything.

    Raises:
        UnavailableError: what was asked for cannot run here.
        ArtifactError: the engine is of another version or GPU.
    """
    asked = settings.runtime
    passed_over: dict[ServingRuntime, str] = {}
    for runtime in BEST_FIRST if asked is ServingRuntime.AUTO else (asked,):
        reason = obstacle(runtime, manifest, settings, machine)
        if reason is None:
            refuse_stranger(runtime, folder, manifest, settings, machine)
            return Choice(runtime, passed_over)
        passed_over[runtime] = reason
    reasons = "; ".join(f"{runtime}: {reason}" for runtime, reason in passed_over.items())
    raise UnavailableError(f"{manifest.variant} cannot be served as SERVING_RUNTIME={asked} asks: {reasons}")


def obstacle(runtime: ServingRuntime, manifest: Manifest, settings: Settings, machine: Machine) -> str | None:
    """What a runtime lacks to run an artifact, in words; None if nothing. The quickest questions come first."""
    if runtime is ServingRuntime.ONNXRUNTIME:
        return None
    flavour = FLAVOURS.get(runtime)
    return artifact_lacks(flavour, manifest, settings) or machine_lacks(flavour, machine)


def artifact_lacks(flavour: Runtime | None, manifest: Manifest, settings: Settings) -> str | None:
    """For an engine of a flavour, or, where that is None, for ONNX Runtime on a GPU."""
    if flavour is not None and manifest.runtime is not flavour and settings.engines is Engines.AS_EXPORTED:
        command = command_of(manifest.model_copy(update={"runtime": flavour, "engine": None}))
        return f"the artifact has no engine of it ({command}, or SERVING_ENGINES=rebuild)"
    if manifest.precision is Precision.INT8 and flavour is None:
        in_fp16 = {"runtime": Runtime.ONNXRUNTIME, "engine": None, "precision": Precision.FP16}
        return f"int8 graphs are made for TensorRT or for CPUs ({command_of(manifest.model_copy(update=in_fp16))})"
    if manifest.precision is Precision.INT8 and manifest.runtime is Runtime.ONNXRUNTIME:
        return "the int8 graph was made for CPUs"
    return None


def machine_lacks(flavour: Runtime | None, machine: Machine) -> str | None:
    if isinstance(machine.cuda, UnavailableError):
        return str(machine.cuda)
    if flavour is None:
        return None if machine.onnxruntime_has_cuda else ONNXRUNTIME_FOR_CPUS
    try:
        machine.tensorrt(flavour)
    except UnavailableError as error:
        return str(error)
    return no_kernels(flavour, machine.cuda.compute_capability)


def refuse_stranger(
    runtime: ServingRuntime, folder: Path, manifest: Manifest, settings: Settings, machine: Machine
) -> None:
    """Raises ArtifactError where the engine that would be opened is not for this machine."""
    flavour = FLAVOURS.get(runtime)
    if flavour is None or manifest.engine is None or settings.engines is Engines.REBUILD:
        return
    cuda, source = machine.gpu(), str(folder / ENGINE_FILE)
    refuse_strangers(manifest.engine, cuda, machine.tensorrt(flavour), source, rebuild_with(manifest, cuda))


def open_runner(folder: Path, manifest: Manifest, settings: Settings, machine: Machine) -> Runner:
    """Open an artifact with the runtime that `choose` finds."""
    return open_with(choose(folder, manifest, settings, machine).runtime, folder, manifest, settings, machine)


def open_with(
    runtime: ServingRuntime, folder: Path, manifest: Manifest, settings: Settings, machine: Machine
) -> Runner:
    """Open an artifact with what was chosen; a runtime is imported when it is."""
    if runtime in FLAVOURS:
        from serving.runners.tensorrt_runner import open_tensorrt  # noqa: PLC0415

        return open_tensorrt(folder, manifest, FLAVOURS[runtime], settings, machine)
    if runtime is ServingRuntime.ONNXRUNTIME_CUDA:
        from export.graph_session import on_cuda  # noqa: PLC0415
        from serving.runners.onnxruntime_cuda_runner import OnnxRuntimeCudaRunner  # noqa: PLC0415

        graph, gpu = folder / GRAPH_FILE, machine.gpu()
        return OnnxRuntimeCudaRunner(lambda stream: on_cuda(graph, manifest.precision, stream), manifest, gpu)
    return open_on_cpu(folder / GRAPH_FILE, manifest, settings.intra_op_threads or 1)


def open_on_cpu(graph: Path, manifest: Manifest, intra_op_threads: int, spinning_us: int = 0) -> Runner:
    """A graph, opened by ONNX Runtime such that an inference soon leaves cores that it does not need to others."""
    from export.graph_session import on_cpu  # noqa: PLC0415  not needed where TensorRT serves
    from serving.runners.onnxruntime_runner import OnnxRuntimeRunner  # noqa: PLC0415

    return OnnxRuntimeRunner(on_cpu(graph, intra_op_threads, spinning_us), manifest)
