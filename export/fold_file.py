"""`python -m export fold IN OUT`: fold the BatchNormalizations of any ONNX file, checked before it is written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from export.artifact import Precision
from export.folding.fold import FoldReport, fold
from export.folding.nodes import FoldError
from export.graph_session import cpu_options
from models.atomic_file import write_atomically

Inputs = dict[str, NDArray[np.generic]]
TOLERANCE = {  # of an output's largest value; a low precision lets channels be constant that vary by less than its step
    Precision.FP32: 1e-4,
    Precision.FP16: 1e-2,
    Precision.INT8: 0.1,
}
RANDOM_INPUTS = 3
BATCH = 2  # for a first axis without a number


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        tolerance = TOLERANCE[options.precision] if options.tolerance is None else options.tolerance
        model = read(options.model)
        if options.folded.exists() and options.folded.samefile(options.model):
            raise FoldError("OUT is the same file, which would be lost: nothing unfolds it; name another")
        report, content = folded(model, options.precision)
        print(report)
        print(check(options.model, content, options.inputs, tolerance))
    except FoldError as error:
        print(f"error: {options.model}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        write_atomically(options.folded, content)
    except OSError as error:
        print(f"error: {options.folded}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    print(f"wrote {options.folded}, {size_of(content)}")
    return 0


def size_of(content: bytes) -> str:
    return f"{len(content) / 1e6:.1f} MB" if len(content) >= 1e6 else f"{len(content) / 1e3:.1f} KB"


def folded(model: ir.Model, precision: Precision) -> tuple[FoldReport, bytes]:
    """Raises FoldError for whatever is wrong with the model."""
    try:
        return fold(model, precision), ir.to_proto(model).SerializeToString()
    except FoldError:
        raise
    except Exception as error:  # ONNX's checker lets through shapes that no runtime would take, and files of 2 GB
        raise FoldError(f"cannot be folded ({type(error).__name__}: {error})") from error


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m export fold", description=__doc__)
    top.add_argument("model", type=Path, metavar="IN", help="an ONNX file, of any maker")
    top.add_argument("folded", type=Path, metavar="OUT", help="where to write the folded one")
    top.add_argument(
        "--precision", type=Precision, choices=list(Precision), default=Precision.FP32,
        help="what the folded graph is meant for; the file itself stays float (default: fp32)",
    )  # fmt: skip
    top.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays by input name, to check on besides random")
    top.add_argument(
        "--tolerance",
        type=float,
        help="of an output's largest value (default: "
        + ", ".join(f"{tolerance:g} for {precision}" for precision, tolerance in TOLERANCE.items())
        + ")",
    )
    return top


def read(path: Path) -> ir.Model:
    """Read a model with all its weights.

    Raises:
        FoldError: it is no valid ONNX model, or its external data is not there.
    """
    try:
        onnx.checker.check_model(path)  # by path: external data is looked for as well
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    except Exception as error:  # protobuf's own among them
        reason = str(error).strip().partition("\n")[0]
        raise FoldError(f"no complete ONNX model: {reason}") from error
    return model


def check(original: Path, folded: bytes, inputs: Path | None, tolerance: float) -> str:
    """Run both on random inputs and on those given.

    Raises:
        FoldError: an output differs by more than the tolerance, or nothing random fits the inputs.
    """
    before, after = session(str(original)), session(folded)
    names = [output.name for output in before.get_outputs()]
    worst, n = 0.0, 0
    for feed in feeds(before, inputs):
        for name, expected, found in zip(names, run(before, feed), run(after, feed), strict=True):
            difference = difference_of(name, expected, found)
            if not difference <= tolerance:  # refuses NaN as well
                raise FoldError(
                    f"output {name} differs by {difference:.2g} of its largest value, accepted is {tolerance:g}; "
                    "nothing was written"
                )
            worst, n = max(worst, difference), n + 1
    return f"checked on {n} outputs: the largest difference is {worst:.1g} of the largest value"


def difference_of(name: str, expected: object, found: object) -> float:
    """The largest, as a share of the largest value; NaN where there is one, infinity where the shapes differ."""
    if not isinstance(expected, np.ndarray) or not isinstance(found, np.ndarray) or expected.dtype.kind not in "fiub":
        raise FoldError(f"output {name} is no tensor of numbers; the check compares nothing else")
    if expected.shape != found.shape:
        return np.inf
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0)
    return float(difference / max(np.abs(expected.astype(np.float64)).max(initial=0), 1e-30))


def session(model: str | bytes) -> onnxruntime.InferenceSession:
    settings = cpu_options()
    settings.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise FoldError(f"ONNX Runtime cannot open it to check it: {error}") from error


def run(model: onnxruntime.InferenceSession, feed: Inputs) -> list[NDArray[np.float32]]:
    try:
        return list(model.run(None, feed))
    except Exception as error:
        raise FoldError(f"ONNX Runtime cannot run it to check it: {error}") from error


def feeds(model: onnxruntime.InferenceSession, given: Path | None) -> Iterator[Inputs]:
    for seed in range(RANDOM_INPUTS):
        generator = np.random.default_rng(seed)
        if given is None or not any(unknown_axes(value) for value in model.get_inputs()):
            yield {value.name: random_input(value, generator) for value in model.get_inputs()}
    if given is not None:
        yield read_inputs(given, [value.name for value in model.get_inputs()])


def read_inputs(path: Path, names: Sequence[str]) -> Inputs:
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # allow_pickle is off
            return {name: arrays[name] for name in names}
    except Exception as error:  # NumPy's own have no common base
        raise FoldError(f"{path}: expected an npz file with an array for each input, by its name ({error})") from error


def unknown_axes(value: onnxruntime.NodeArg) -> list[object]:
    """Axes behind the first that have no number."""
    return [axis for axis in value.shape[1:] if not isinstance(axis, int)]


def random_input(value: onnxruntime.NodeArg, generator: np.random.Generator) -> NDArray[np.generic]:
    if unknown_axes(value):
        raise FoldError(
            f"input {value.name} has shape {value.shape}: the check needs numbers after the first axis, or --inputs"
        )
    shape = [axis if isinstance(axis, int) else BATCH for axis in value.shape]
    match value.type:
        case "tensor(uint8)":
            return generator.integers(0, 256, shape, dtype=np.uint8)
        case "tensor(float)":
            return generator.standard_normal(shape, dtype=np.float32)
        case "tensor(double)":
            return generator.standard_normal(shape)
    raise FoldError(f"input {value.name} is a {value.type}; the check makes up float, double and uint8")
