"""The manifest of what was exported, with a reason for every measurement that is missing."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
    TensorSpec,
    file_sha256,
    preprocessing_sha256,
)
from export.source import Source
from export.to_onnx import INPUT, OPSET, OUTPUT

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow")  # where installed


@dataclass(frozen=True, slots=True)
class Measured:
    """What folding, quantization and verification found; by the manifest's names."""

    folding: Folding | None
    quantization: Quantization | None
    fp32_accuracy: Accuracy | None
    parity: Parity
    accuracy: Accuracy | None


def describe(
    source: Source,
    folder: Path,
    precision: Precision,
    max_batch_size: int,
    class_maps: TensorSpec,
    measured: Measured,
    given: tuple[str, ...],
) -> Manifest:
    """The manifest of a graph and that of its class maps, before an engine is made of it."""
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
        "accuracy": measured.accuracy is not None,
        "training_accuracy": source.training_accuracy is not None,
        "commit": commit is not None,
    }
    return Manifest(
        variant=spec.variant,
        trained=trained,
        given=given,
        spec=spec,
        labels=source.labels,
        input=TensorSpec(name=INPUT, dtype="uint8", shape=("batch", crop, crop, 3)),
        output=TensorSpec(name=OUTPUT, dtype="float32", shape=("batch", spec.num_classes)),
        class_maps=class_maps,
        precision=precision,
        runtime=Runtime.ONNXRUNTIME,
        opset=OPSET,
        max_batch_size=max_batch_size,
        files={name: file_sha256(folder / name) for name in (GRAPH_FILE, CLASS_MAPS_FILE)},
        checkpoint_sha256=source.checkpoint_sha256,
        preprocessing_sha256=preprocessing_sha256(spec.preprocessing),
        training_accuracy=source.training_accuracy,
        commit=commit,
        not_measured={name: reasons[name] or "" for name, is_known in known.items() if not is_known},
        packages=installed(PACKAGES),
        **{name: getattr(measured, name) for name in Measured.__dataclass_fields__},
    )


def with_engine(manifest: Manifest, folder: Path, engine: Engine) -> Manifest:
    """The manifest of a graph that an engine lies beside; the engine's flavour is the runtime then."""
    fields = dict(manifest) | {
        "runtime": engine.flavour,
        "files": manifest.files | {ENGINE_FILE: file_sha256(folder / ENGINE_FILE)},
        "engine": engine,
    }
    return Manifest(**fields)


def installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


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
