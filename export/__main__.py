"""Export a variant: checkpoint -> ONNX -> verified against torch -> artifact in BentoML's model store."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from export.artifact import (
    Accuracy,
    ArtifactError,
    Manifest,
    Parity,
    TensorSpec,
    file_sha256,
    preprocessing_sha256,
    write_manifest,
)
from export.to_onnx import INPUT, OPSET, OUTPUT, ServedGraph, to_onnx
from export.verify import (
    ParityError,
    bundled_photographs,
    compare,
    from_photographs,
    from_split,
    measure_accuracy,
    open_graph,
    random_pixels,
)
from models.data import DataError, Part, load_split
from models.resnet import build
from models.spec import ModelSpec, SpecError, spec_for
from models.weights import CheckpointError, read_checkpoint, zoo_path

MODEL_FILE = "model.onnx"
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Source:
    """A network with what is known of its origin."""

    graph: ServedGraph
    spec: ModelSpec
    labels: tuple[str, ...]
    checkpoint_sha256: str | None
    training_accuracy: Accuracy | None


def main(arguments: list[str] | None = None) -> int:
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    options = parser().parse_args(arguments)
    try:
        for variant in options.variants:
            print(export(variant, options), flush=True)
    except (ArtifactError, CheckpointError, DataError, ParityError, SpecError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    top.add_argument(
        "variants", nargs="+", metavar="VARIANT", help="such as resnet20-preact; see `python -m models list`"
    )
    origin = top.add_mutually_exclusive_group()
    origin.add_argument("--checkpoint", type=Path, help="safetensors (default: the shipped weights of that name)")
    origin.add_argument("--untrained", action="store_true", help="the shape alone, random weights: for load tests")
    top.add_argument("--data", type=Path, help="labelled data: parity and accuracy are measured on its test part")
    top.add_argument(
        "--images", type=Path, help="folder of photographs for parity without data (default: scikit-image's own)"
    )
    top.add_argument("--max-batch-size", type=positive, default=64, help="the largest batch to serve (default: 64)")
    return top


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def export(variant: str, options: argparse.Namespace) -> str:
    """Build, convert, verify, register; returns the tag. Nothing reaches the store unless all of it succeeded."""
    source = untrained(variant) if options.untrained else trained(variant, options.checkpoint)
    with tempfile.TemporaryDirectory(prefix="preflight-export-") as name:
        folder = Path(name)
        say(f"{variant}: converting to ONNX")
        onnx.save(to_onnx(source.graph), folder / MODEL_FILE)
        say(f"{variant}: verifying against torch")
        parity, accuracy = verify(source, folder / MODEL_FILE, options.data, options.images)
        manifest = describe(source, folder, parity, accuracy, options.max_batch_size)
        write_manifest(folder, manifest)

        from export.store import register  # noqa: PLC0415  BentoML takes a second to import, errors come sooner

        return register(folder, manifest)


def trained(variant: str, checkpoint_path: Path | None) -> Source:
    spec_for(variant)
    path = checkpoint_path or zoo_path(variant)
    if checkpoint_path is None and not path.exists():
        raise CheckpointError(
            f"no weights are shipped for {variant}; give --checkpoint FILE, or --untrained for its shape alone"
        )
    checkpoint = read_checkpoint(path)
    spec = checkpoint.description.spec
    if spec.variant != variant:
        raise CheckpointError(f"{path} holds a {spec.variant}, not a {variant}; export it under that name")
    graph = ServedGraph(checkpoint.network(), spec.preprocessing)
    return Source(
        graph, spec, checkpoint.description.class_names, checkpoint.sha256, recorded(checkpoint.description.training)
    )


def recorded(training: dict[str, Any]) -> Accuracy | None:
    """The accuracy that training wrote into a checkpoint, if it did."""
    if not training:
        return None
    return Accuracy(**training["test"], data=f"{training['data']} test")


def untrained(variant: str) -> Source:
    spec = spec_for(variant)
    labels = tuple(f"class {index}" for index in range(spec.num_classes))
    return Source(ServedGraph(build(spec, seed=0), spec.preprocessing), spec, labels, None, None)


def verify(source: Source, model: Path, data: Path | None, photographs: Path | None) -> tuple[Parity, Accuracy | None]:
    session = open_graph(model)
    preprocessing = source.spec.preprocessing
    if data is not None:
        split = load_split(data, Part.TEST, preprocessing)
        parity = compare(source.graph, session, from_split(split), f"{split.name} test")
        return parity, measure_accuracy(session, split, source.labels) if source.checkpoint_sha256 else None
    photographs = photographs or bundled_photographs()
    if photographs is not None:
        images, description = from_photographs(photographs, preprocessing)
    else:
        images, description = random_pixels(preprocessing), "random pixels: no --data, no --images, no scikit-image"
        say(f"warning: parity is measured on {description}")
    return compare(source.graph, session, images, description), None


def describe(source: Source, folder: Path, parity: Parity, accuracy: Accuracy | None, max_batch_size: int) -> Manifest:
    spec, crop = source.spec, source.spec.preprocessing.crop
    commit, no_commit = current_commit()
    trained = source.checkpoint_sha256 is not None
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
        precision="fp32",
        runtime="onnxruntime",
        opset=OPSET,
        max_batch_size=max_batch_size,
        files={MODEL_FILE: file_sha256(folder / MODEL_FILE)},
        checkpoint_sha256=source.checkpoint_sha256,
        preprocessing_sha256=preprocessing_sha256(spec.preprocessing),
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


if __name__ == "__main__":
    sys.exit(main())
