"""Checkpoint -> ONNX -> folded -> quantized -> verified -> artifact in BentoML's model store."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir

from export.artifact import (
    Accuracy,
    Folding,
    Manifest,
    Parity,
    Precision,
    Quantization,
    TensorSpec,
    file_sha256,
    preprocessing_sha256,
    write_manifest,
)
from export.calibration import Calibration, calibration_of, write_calibration
from export.folding.fold import fold
from export.quantize import quantize
from export.source import Source, named_by, open_source
from export.to_onnx import INPUT, OPSET, OUTPUT, to_onnx
from export.verify import (
    TOLERANCE,
    Pixels,
    bundled_photographs,
    compare,
    from_photographs,
    from_split,
    measure_accuracy,
    open_graph,
    random_pixels,
    refuse_loss,
)
from models.choice import ModelChoice
from models.data import Part, Split, load_split
from models.spec import Preprocessing, SpecError

MODEL_FILE, FLOAT_FILE = "model.onnx", "float.onnx"
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """How every variant of one command is exported; `most_points_lost` is int8's gate, in percentage points."""

    untrained: bool
    data: Path | None
    images: Path | None
    max_batch_size: int
    fold: bool
    precision: Precision
    calibration: Path | None
    save_calibration: Path | None
    most_points_lost: float


def export(choice: ModelChoice, settings: ExportSettings) -> str:
    """Build, convert, fold, quantize, verify, register; returns the tag.

    Nothing reaches the store unless all of it succeeded.
    """
    if settings.untrained and choice.checkpoint is not None:
        raise SpecError(f"--untrained and the checkpoint {choice.checkpoint} exclude each other")
    source = open_source(choice, untrained=settings.untrained)
    variant, preprocessing = source.spec.variant, source.spec.preprocessing
    split = load_split(settings.data, Part.TEST, preprocessing) if settings.data is not None else None
    if split is not None and source.checkpoint is not None:
        source = named_by(source, split)
    with tempfile.TemporaryDirectory(prefix="preflight-export-") as name:
        folder, scratch = Path(name) / "artifact", Path(name)
        folder.mkdir()
        say(f"{variant}: converting to ONNX")
        model, folding, quantization, calibration = to_onnx(source.graph), None, None, None
        if settings.fold:
            model, folding = folded(model, variant, settings.precision)
        if settings.precision is Precision.INT8:
            onnx.save(model, scratch / FLOAT_FILE)
            model, quantization, calibration = quantized(model, source, scratch / FLOAT_FILE, split, settings)
        onnx.save(model, folder / MODEL_FILE)
        say(f"{variant}: verifying against torch")
        parity, accuracy = verify(source, folder / MODEL_FILE, split, settings)
        if quantization is not None and quantization.fp32_accuracy is not None and accuracy is not None:
            refuse_loss(quantization.fp32_accuracy, accuracy, settings.most_points_lost)
        manifest = describe(source, folder, folding, quantization, parity, accuracy, settings)
        write_manifest(folder, manifest)
        if settings.save_calibration is not None and calibration is not None:
            write_calibration(settings.save_calibration, calibration)

        from export.store import register  # noqa: PLC0415  BentoML takes a second to import, errors come sooner

        return register(folder, manifest)


def folded(model: onnx.ModelProto, variant: str, precision: Precision) -> tuple[onnx.ModelProto, Folding]:
    graph = ir.from_proto(model)
    report = fold(graph, precision)
    say(f"{variant}: BatchNormalization on the residual stream, {report}")
    return ir.to_proto(graph), Folding(folded=report.folded, left=report.left)


def quantized(
    model: onnx.ModelProto, source: Source, path: Path, split: Split | None, settings: ExportSettings
) -> tuple[onnx.ModelProto, Quantization, Calibration]:
    say(f"{source.spec.variant}: quantizing to int8")
    found = calibration_of(model, source, settings.calibration, settings.data)
    accuracy = None
    if split is not None and source.checkpoint is not None:
        accuracy = measure_accuracy(open_graph(path), split, source.labels)
    record = Quantization(images=found.images, n=found.n, fp32_accuracy=accuracy)
    return quantize(model, found.ranges), record, found


def verify(
    source: Source, model: Path, split: Split | None, settings: ExportSettings
) -> tuple[Parity, Accuracy | None]:
    session = open_graph(model)
    images, description = parity_images(split, settings.images, source.spec.preprocessing)
    parity = compare(source.graph, session, images, description, TOLERANCE[settings.precision])
    if split is None or source.checkpoint is None:
        return parity, None
    return parity, measure_accuracy(session, split, source.labels)


def parity_images(split: Split | None, photographs: Path | None, preprocessing: Preprocessing) -> tuple[Pixels, str]:
    """The images to compare logits on, and a description of them."""
    if split is not None:
        return from_split(split), f"{split.name} test"
    photographs = photographs or bundled_photographs()
    if photographs is not None:
        return from_photographs(photographs, preprocessing)
    say("warning: parity is measured on random pixels")
    return random_pixels(preprocessing), "random pixels: no --data, no --images, no scikit-image"


def describe(
    source: Source,
    folder: Path,
    folding: Folding | None,
    quantization: Quantization | None,
    parity: Parity,
    accuracy: Accuracy | None,
    settings: ExportSettings,
) -> Manifest:
    spec, crop = source.spec, source.spec.preprocessing.crop
    commit, no_commit = current_commit()
    trained = source.checkpoint is not None
    reasons = {
        "checkpoint_sha256": None if trained else "untrained: there is no checkpoint",
        "accuracy": "no labelled data was given (--data)" if trained else "untrained weights have none",
        "training_accuracy": "the checkpoint records none" if trained else "untrained weights have none",
        "commit": no_commit,
    }
    known = {
        "checkpoint_sha256": trained,
        "accuracy": accuracy is not None,
        "training_accuracy": source.training_accuracy is not None,
        "commit": commit is not None,
    }
    return Manifest(
        variant=spec.variant,
        trained=trained,
        spec=spec,
        labels=source.labels,
        input=TensorSpec(name=INPUT, dtype="uint8", shape=("batch", crop, crop, 3)),
        output=TensorSpec(name=OUTPUT, dtype="float32", shape=("batch", spec.num_classes)),
        precision=settings.precision,
        runtime="onnxruntime",
        opset=OPSET,
        max_batch_size=settings.max_batch_size,
        files={MODEL_FILE: file_sha256(folder / MODEL_FILE)},
        checkpoint_sha256=source.checkpoint_sha256,
        preprocessing_sha256=preprocessing_sha256(spec.preprocessing),
        folding=folding,
        quantization=quantization,
        parity=parity,
        accuracy=accuracy,
        training_accuracy=source.training_accuracy,
        commit=commit,
        not_measured={name: reasons[name] or "" for name, is_known in known.items() if not is_known},
        packages={name: version(name) for name in PACKAGES},
    )


def current_commit() -> tuple[str | None, str]:
    """The commit of this checkout, `-dirty` where it has changes; else the reason why there is none."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],  # noqa: S607
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None, "not exported from a git checkout"
    return described.stdout.strip(), ""


def say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
