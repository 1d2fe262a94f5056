"""Export a variant: checkpoint -> ONNX -> folded -> verified against torch -> artifact in BentoML's model store."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir

from export.artifact import (
    Accuracy,
    ArtifactError,
    Folding,
    Manifest,
    Parity,
    TensorSpec,
    file_sha256,
    preprocessing_sha256,
    write_manifest,
)
from export.bench import main as bench
from export.fold_file import main as fold_file
from export.folding.fold import fold
from export.source import Source, named_by, open_source
from export.to_onnx import INPUT, OPSET, OUTPUT, to_onnx
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
from models.choice import ModelChoice, read_model_file
from models.data import DataError, Part, Split, load_split
from models.spec import Interpolation, Shortcut, SpecError
from models.weights import CheckpointError

MODEL_FILE = "model.onnx"
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


def main(arguments: list[str] | None = None) -> int:
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["fold"]:
        return fold_file(arguments[1:])
    if arguments[:1] == ["bench"]:
        return bench(arguments[1:])
    options = parser().parse_args(arguments)
    try:
        for folder in filter(None, (options.data, options.images)):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder")
        for choice in choices(options):
            print(export(choice, options), flush=True)
    except (ArtifactError, CheckpointError, DataError, ParityError, SpecError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was not printed was not registered", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m export", description=__doc__, epilog="`python -m export fold --help`: fold any ONNX file"
    )
    top.add_argument(
        "variants", nargs="*", metavar="VARIANT", help="such as resnet20-preact; see `python -m models list`"
    )
    top.add_argument("--untrained", action="store_true", help="the shape alone, random weights: for load tests")
    top.add_argument("--data", type=Path, help="labelled data: parity and accuracy are measured on its test part")
    top.add_argument(
        "--images", type=Path, help="folder of photographs for parity without data (default: scikit-image's own)"
    )
    top.add_argument("--max-batch-size", type=positive, default=64, help="the largest batch to serve (default: 64)")

    top.add_argument(
        "--no-fold", dest="fold", action="store_false", help="leave BatchNormalization on residual streams as it is"
    )

    own = top.add_argument_group(
        "a checkpoint of your own", "safetensors or torch's format; by torchvision's or timm's names"
    )
    own.add_argument("--checkpoint", type=Path, metavar="FILE")
    own.add_argument("--variant", help="the same as VARIANT")
    own.add_argument(
        "--model-file", type=Path, metavar="FILE", help="TOML with the names below, and variant and checkpoint"
    )
    own.add_argument("--labels", type=Path, metavar="FILE", help="text file, a label a line in the order of the logits")
    own.add_argument("--num-classes", type=positive, help="default: the size of the checkpoint's head")
    own.add_argument("--shortcut", type=Shortcut, choices=list(Shortcut), help="default: the variant's")
    own.add_argument("--resize", type=positive, help="pixels of the shorter side; default: the variant's, as all below")
    own.add_argument("--crop", type=positive, help="pixels of the square that is cut from the centre")
    own.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels from 0 to 1")
    own.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"))
    own.add_argument("--interpolation", type=Interpolation, choices=list(Interpolation))
    return top


def choices(options: argparse.Namespace) -> list[ModelChoice]:
    """One model for each variant that was named; what else was said of a checkpoint goes with a single one alone."""
    said = ModelChoice.model_validate({name: getattr(options, name) for name in ModelChoice.model_fields})
    if options.model_file is not None:
        said = said.over(read_model_file(options.model_file))
    if len(options.variants) > 1 and (said.variant or said.checkpoint or said.descriptive):
        raise SpecError(f"{len(options.variants)} variants were named; describe a checkpoint with one at a time")
    if options.variants and said.variant not in (None, *options.variants):
        raise SpecError(f"both {options.variants[0]} and {said.variant} were named; give one")
    return [said.model_copy(update={"variant": name}) for name in options.variants] or [said]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def export(choice: ModelChoice, options: argparse.Namespace) -> str:
    """Build, convert, verify, register; returns the tag. Nothing reaches the store unless all of it succeeded."""
    if options.untrained and choice.checkpoint is not None:
        raise SpecError(f"--untrained and the checkpoint {choice.checkpoint} exclude each other")
    source = open_source(choice, untrained=options.untrained)
    variant, preprocessing = source.spec.variant, source.spec.preprocessing
    split = load_split(options.data, Part.TEST, preprocessing) if options.data is not None else None
    if split is not None and source.checkpoint_sha256:
        source = named_by(source, split)
    with tempfile.TemporaryDirectory(prefix="preflight-export-") as name:
        folder = Path(name)
        say(f"{variant}: converting to ONNX")
        model, folding = to_onnx(source.graph), None
        if options.fold:
            model, folding = folded(model, variant)
        onnx.save(model, folder / MODEL_FILE)
        say(f"{variant}: verifying against torch")
        parity, accuracy = verify(source, folder / MODEL_FILE, split, options.images)
        manifest = describe(source, folder, folding, parity, accuracy, options.max_batch_size)
        write_manifest(folder, manifest)

        from export.store import register  # noqa: PLC0415  BentoML takes a second to import, errors come sooner

        return register(folder, manifest)


def verify(
    source: Source, model: Path, split: Split | None, photographs: Path | None
) -> tuple[Parity, Accuracy | None]:
    session = open_graph(model)
    preprocessing = source.spec.preprocessing
    if split is not None:
        parity = compare(source.graph, session, from_split(split), f"{split.name} test")
        return parity, measure_accuracy(session, split, source.labels) if source.checkpoint_sha256 else None
    photographs = photographs or bundled_photographs()
    if photographs is not None:
        images, description = from_photographs(photographs, preprocessing)
    else:
        images, description = random_pixels(preprocessing), "random pixels: no --data, no --images, no scikit-image"
        say(f"warning: parity is measured on {description}")
    return compare(source.graph, session, images, description), None


def folded(model: onnx.ModelProto, variant: str) -> tuple[onnx.ModelProto, Folding]:
    graph = ir.from_proto(model)
    report = fold(graph)
    say(f"{variant}: BatchNormalization on the residual stream, {report}")
    return ir.to_proto(graph), Folding(folded=len(report.folded), left=report.left)


def describe(
    source: Source,
    folder: Path,
    folding: Folding | None,
    parity: Parity,
    accuracy: Accuracy | None,
    max_batch_size: int,
) -> Manifest:
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
        folding=folding,
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
