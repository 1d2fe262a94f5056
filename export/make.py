"""One artifact in one precision: folded, lowered, verified, with its engine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from export.artifact import (
    CLASS_MAPS_FILE,
    ENGINE_FILE,
    GRAPH_FILE,
    Accuracy,
    Engine,
    Folding,
    Manifest,
    Parity,
    Precision,
    Quantization,
    Runtime,
    write_manifest,
)
from export.calibration import Calibration, calibration_of
from export.class_maps import add_class_maps
from export.cuda import Cuda, UnavailableError
from export.describe import Measured, describe, with_engine
from export.engine_cache import EngineCache
from export.engine_session import EngineSession, misfit
from export.flavour import load, no_kernels
from export.folding.fold import fold
from export.job import Job, say
from export.progress import progress
from export.quantize import MadeFor, quantize
from export.to_engine import profile_for, rebuild_with, to_engine
from export.to_fp16 import to_fp16
from export.verify import (
    BATCH_SIZE,
    MOST_POINTS_LOST,
    Run,
    compare,
    measure_accuracy,
    open_graph,
    open_maps,
    refuse_loss,
)

FLOAT_FILE = "float.onnx"
LEAST_AGREEMENT = 0.95  # of top-1 with torch's, for what no accuracy gates


@dataclass(frozen=True)
class Made:
    """An artifact in its folder, verified, not yet registered."""

    folder: Path
    manifest: Manifest
    calibration: Calibration | None


def make(job: Job, converted: onnx.ModelProto, precision: Precision, scratch: Path) -> Made:
    """One artifact.

    Raises:
        PrecisionError: it loses more than `most_points_lost`.
        ParityError: it computes something else than the network.
    """
    folder = scratch / f"artifact-{precision}"
    folder.mkdir()
    model, folding = folded(converted, job.variant, precision) if job.settings.fold else (converted, None)
    fp32_accuracy = None
    if precision is not Precision.FP32 and job.ungated:
        say(f"{job.variant}: {precision} passes no gate: what accuracy it costs takes labelled data (--data FOLDER)")
    if precision is not Precision.FP32 and job.labelled is not None:
        onnx.save(model, scratch / FLOAT_FILE)
        fp32_accuracy = measure_accuracy(open_graph(scratch / FLOAT_FILE), job.labelled, job.source.labels)
    model, quantization, calibration = lowered(job, model, precision)
    onnx.save(model, folder / GRAPH_FILE)
    say(f"{job.variant}: verifying against torch")
    parity, accuracy = verified(job, open_graph(folder / GRAPH_FILE), precision, fp32_accuracy, quantization)
    class_maps = add_class_maps(folder)
    described = f"the first of {job.images_are}, by the means of class maps"
    compare(job.source.graph, open_maps(folder / CLASS_MAPS_FILE), job.images[:BATCH_SIZE], described, precision)
    measured = Measured(folding, quantization, fp32_accuracy, parity, accuracy)
    manifest = describe(job.source, folder, precision, job.settings.max_batch_size, class_maps, measured, job.given)
    if job.settings.runtime is not Runtime.ONNXRUNTIME:
        manifest = add_engine(job, folder, manifest)
    write_manifest(folder, manifest)
    return Made(folder, manifest, calibration)


def folded(model: onnx.ModelProto, variant: str, precision: Precision) -> tuple[onnx.ModelProto, Folding]:
    graph = ir.from_proto(model)
    report = fold(graph, precision)
    say(f"{variant}: BatchNormalization on the residual stream, {report}")
    return ir.to_proto(graph), Folding(folded=report.folded, left=report.left)


def lowered(
    job: Job, model: onnx.ModelProto, precision: Precision
) -> tuple[onnx.ModelProto, Quantization | None, Calibration | None]:
    if precision is Precision.FP32:
        return model, None, None
    if precision is Precision.FP16:
        return to_fp16(model), None, None
    say(f"{job.variant}: quantizing to int8")
    found = calibration_of(model, job.source, job.settings.calibration, job.settings.data)
    made_for = MadeFor.ONNXRUNTIME if job.settings.runtime is Runtime.ONNXRUNTIME else MadeFor.TENSORRT
    return quantize(model, found.ranges, made_for), Quantization(images=found.images, n=found.n), found


def verified(
    job: Job, run: Run, precision: Precision, fp32_accuracy: Accuracy | None, quantization: Quantization | None
) -> tuple[Parity, Accuracy | None]:
    """Parity, and accuracy where there is labelled data; refused where either is not what the precision allows."""
    parity = compare(job.source.graph, run, job.images, job.images_are, precision)
    if precision is not Precision.FP32:
        say_agreement(job, parity, precision, quantization)
    if job.labelled is None:
        return parity, None
    accuracy = measure_accuracy(run, job.labelled, job.source.labels)
    if fp32_accuracy is not None:
        most = job.settings.most_points_lost
        refuse_loss(fp32_accuracy, accuracy, precision, MOST_POINTS_LOST[precision] if most is None else most)
    return parity, accuracy


def say_agreement(job: Job, parity: Parity, precision: Precision, quantization: Quantization | None) -> None:
    calibrated = "" if quantization is None else f"; calibration images: {quantization.n}"
    agreement = f"{parity.top1_agreement:.2%} of {parity.n} images"
    say(f"{job.variant}: {precision} agrees with torch in top-1 on {agreement} ({parity.images}){calibrated}")
    # Who saved the ranges beside a checkpoint was warned then; the shipped ones are of CIFAR-10, unlike photographs.
    ranges_were_saved = quantization is not None and job.settings.calibration is None
    if job.ungated and not ranges_were_saved and parity.top1_agreement < LEAST_AGREEMENT:
        better = "use --precision fp32" if quantization is None else "give more --calibration images"
        say(
            f"warning: {job.variant}: {precision} may be useless: it agrees on {agreement} only, less than "
            f"{LEAST_AGREEMENT:.0%}, and no accuracy was measured{calibrated}. Give --data FOLDER, labelled, which "
            f"gates on accuracy, or {better}; images unlike those to be served agree less: --images FOLDER takes yours"
        )


def add_engine(job: Job, folder: Path, manifest: Manifest) -> Manifest:
    """Build the engine of a graph beside it, and verify it where its GPU is."""
    settings = job.settings
    say(f"{job.variant}: building the engine")
    cache = EngineCache(settings.engine_cache)
    profile = profile_for(settings.max_batch_size)
    begun = time.perf_counter()
    with progress(None, "engine", "step") as bar:

        def show(phase: str, step: int, steps: int) -> None:
            bar.set_description(phase, refresh=False)
            bar.total = steps
            bar.update(step - bar.n)

        content, engine = to_engine(folder / GRAPH_FILE, settings.runtime, profile, job.built_for, cache, show)
    say(f"{job.variant}: engine of {len(content) / 1e6:.1f} MB after {time.perf_counter() - begun:.1f} s")
    (folder / ENGINE_FILE).write_bytes(content)
    reason = cannot_run(engine, job.cuda)
    if isinstance(job.cuda, UnavailableError) or reason is not None:
        say(f"{job.variant}: the engine was not run: {reason}")
        return with_engine(manifest, folder, engine.model_copy(update={"not_measured": reason}))
    say(f"{job.variant}: verifying the engine against torch")
    with open_engine(content, engine, job.cuda, manifest) as session:
        parity, accuracy = verified(job, session.run, manifest.precision, manifest.fp32_accuracy, manifest.quantization)
    measured = {"parity": parity, "accuracy": accuracy, "not_measured": None}
    return with_engine(manifest, folder, engine.model_copy(update=measured))


def cannot_run(engine: Engine, cuda: Cuda | UnavailableError) -> str | None:
    if isinstance(cuda, UnavailableError):
        return f"built where there is {cuda}"
    return no_kernels(engine.flavour, cuda.compute_capability) or misfit(engine, cuda, load(engine.flavour))


def open_engine(content: bytes, engine: Engine, cuda: Cuda, manifest: Manifest) -> EngineSession:
    source = f"the engine of {manifest.variant}"
    rebuild = rebuild_with(manifest.model_copy(update={"runtime": engine.flavour, "engine": engine}), cuda)
    return EngineSession(content, engine, cuda, load(engine.flavour), source=source, rebuild=rebuild)
