"""Export a variant: checkpoint -> ONNX -> folded -> engine -> verified -> artifact in BentoML's model store."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from export.artifact import MAX_BATCH_SIZE, ArtifactError, Precision, Runtime
from export.class_maps import ClassMapsError
from export.cuda import DeviceError, UnavailableError
from export.engine_cache import default_folder
from export.fold_file import main as fold_file
from export.folding.nodes import FoldError
from export.job import AUTO, ExportSettings
from export.pipeline import export
from export.quantize import PrecisionError
from export.to_engine import EngineError
from export.verify import MOST_POINTS_LOST, ParityError
from models.choice import ModelChoice, read_model_file
from models.data import DataError
from models.spec import Interpolation, Shortcut, SpecError
from models.weights import CheckpointError

ERRORS = (
    ArtifactError, CheckpointError, ClassMapsError, DataError, DeviceError, EngineError, FoldError, ParityError,
    PrecisionError, SpecError, UnavailableError, OSError,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["fold"]:
        return fold_file(arguments[1:])
    if arguments[:1] == ["bench"]:
        from export.bench import main as bench  # noqa: PLC0415  scipy's statistics and OpenVINO take another

        return bench(arguments[1:])
    if arguments[:1] == ["gpu-bench"]:
        from export.gpu_bench import main as gpu_bench  # noqa: PLC0415  torch.fx takes a second to import

        return gpu_bench(arguments[1:])
    options = parser().parse_args(arguments)
    try:
        for folder in filter(None, (options.data, options.images, options.calibration)):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder")
        settings = settings_of(options)
        if settings.save_calibration is not None and len(options.variants) > 1:
            raise SpecError("--save-calibration is of one variant; export them one at a time")
        for choice in choices(options):
            print(export(choice, settings), flush=True)
    except ERRORS as error:
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
    top.add_argument(
        "--max-batch-size", type=positive, default=MAX_BATCH_SIZE,
        help="the largest batch to serve (default: %(default)s)",
    )  # fmt: skip
    top.add_argument(
        "--no-fold", dest="fold", action="store_false", help="leave BatchNormalization on residual streams as it is"
    )

    top.add_argument(
        "--precision", **among([*Precision, AUTO]), default=Precision.FP32,
        help="default: fp32; auto is the fastest that passes its gate on --data",
    )  # fmt: skip
    top.add_argument(
        "--most-points-lost", type=points, metavar="POINTS",
        help=f"refuse what scores this much less than fp32 on --data "
        f"(default: {MOST_POINTS_LOST[Precision.FP16]} in fp16, {MOST_POINTS_LOST[Precision.INT8]} in int8)",
    )  # fmt: skip

    engine = top.add_argument_group(
        "TensorRT engines", "TensorRT builds on the GPU to be served on, TensorRT-RTX anywhere"
    )
    engine.add_argument(
        "--runtime", **among(Runtime), default=Runtime.ONNXRUNTIME,
        help="what the artifact is made for (default: onnxruntime)",
    )  # fmt: skip
    engine.add_argument(
        "--compute-capability", metavar="X.Y",
        help="of the GPU to build for, such as 8.9 (default: the GPU here; with tensorrt_rtx all since 8.0)",
    )  # fmt: skip
    engine.add_argument(
        "--engine-cache", type=Path, default=default_folder(), metavar="FOLDER",
        help="where built engines are found again (default: %(default)s)",
    )  # fmt: skip

    int8 = top.add_argument_group("int8", "needs images to calibrate on; the shipped weights bring their ranges along")
    int8.add_argument(
        "--calibration", type=Path, metavar="FOLDER",
        help="images like those to be served, without labels; default: training's part of --data, else the file that "
        "lies beside the checkpoint",
    )  # fmt: skip
    int8.add_argument(
        "--save-calibration", type=Path, metavar="FILE", help="CHECKPOINT.calibration.json is found again"
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
    own.add_argument("--shortcut", **among(Shortcut), help="default: the variant's")
    own.add_argument("--resize", type=positive, help="pixels of the shorter side; default: the variant's, as all below")
    own.add_argument("--crop", type=positive, help="pixels of the square that is cut from the centre")
    own.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels from 0 to 1")
    own.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"))
    own.add_argument("--interpolation", **among(Interpolation))
    return top


def settings_of(options: argparse.Namespace) -> ExportSettings:
    return ExportSettings(**{field.name: getattr(options, field.name) for field in fields(ExportSettings)})


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


def among(words: Iterable[str]) -> dict[str, Any]:
    """How argparse takes one of several words: told in the help, and when none of them is given."""
    known = {str(word): word for word in words}

    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return known[text]

    return {"type": parse, "choices": list(known)}


def points(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:  # refuses NaN as well
        raise argparse.ArgumentTypeError(f"{text} is no number of percentage points from 0 to 100")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C does: what is begun is removed
    sys.exit(main())
