"""What folding needs to know of single ONNX nodes, read off an onnx_ir graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # one entry a channel
CHANNEL = 1  # axis, in NCHW
GAMMA, BETA, MEAN, VARIANCE = 1, 2, 3, 4  # inputs of BatchNormalization
MORE_CHANNELS = 1 << 20  # than any tensor has
DEFAULT_EPSILON = 1e-5  # of BatchNormalization, ONNX specification


class FoldError(ValueError):
    """A graph that cannot be folded: not ONNX, incomplete, or with weights that two nodes share."""


@dataclass(frozen=True)
class Affine:
    """A BatchNormalization at inference: `scale * x + offset`, per channel."""

    scale: Vector
    offset: Vector


STANDARD_DOMAINS = {"", "ai.onnx"}


def operator(node: ir.Node) -> str:
    """The standard operator that a node is; others go by their domain and name, which no standard one has."""
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"


def leaves(value: ir.Value) -> bool:
    """Whether a value is an output of its graph, or read inside the branch or loop of another."""
    return value.is_graph_output() or any(node.graph is not value.graph for node, _ in value.uses())


def name_of(node: ir.Node) -> str:
    return node.name or f"{operator(node)} -> {node.outputs[0].name}"


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The content of an initializer; None for what is computed or comes from outside.

    Raises:
        FoldError: its data lies in another file, which cannot be read.
    """
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    try:
        return value.const_value.numpy()
    except (OSError, ValueError) as error:
        raise FoldError(f"{value.name}: its data cannot be read ({error}); put the file beside the model") from error


def integers(node: ir.Node, name: str, default: Sequence[int] = ()) -> list[int]:
    attribute = node.attributes.get(name)
    return list(default) if attribute is None else list(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def affine_of(node: ir.Node) -> Affine | None:
    """None where its parameters are not constants, or it trains."""
    parameters = [constant(value) for value in node.inputs[1:5]]
    if integer(node, "training_mode", 0) or any(parameter is None for parameter in parameters):
        return None
    weight, bias, mean, variance = (np.asarray(parameter, np.float64) for parameter in parameters)
    epsilon = node.attributes.get("epsilon")
    scale = weight / np.sqrt(variance + (DEFAULT_EPSILON if epsilon is None else epsilon.as_float()))
    return Affine(scale, bias - scale * mean)


def is_padded(node: ir.Node) -> bool:
    """Whether a convolution or pooling sees zeros beyond the border, to which a constant offset does not extend."""
    if any(integers(node, "pads")):
        return True
    kernel = integers(node, "kernel_shape")
    if not kernel and (weight := constant(node.inputs[1] if len(node.inputs) > 1 else None)) is not None:
        kernel = list(weight.shape[2:])
    return text(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"} and set(kernel) != {1}


def reduces_space(node: ir.Node) -> bool:
    """Whether a ReduceMean runs over height and width."""
    if len(node.inputs) > 1:
        axes = constant(node.inputs[1])
        found = [] if axes is None else [int(axis) for axis in axes]
    else:
        found = integers(node, "axes")
    return sorted(axis % 4 for axis in found) == [2, 3]


def carried(node: ir.Node, shift: Vector) -> Vector | None:
    """The shift of a node's output when its input is shifted per channel; None where no constant shift comes out."""
    match operator(node):
        case "Identity" | "Dropout" | "MaxPool":
            return shift
        case "AveragePool":
            counts_padding = integer(node, "count_include_pad", 0) and is_padded(node)
            return None if counts_padding or integer(node, "ceil_mode", 0) else shift
        case "Slice":
            return sliced(node, shift)
        case "Pad":
            return padded(node, shift)
    return None


def sliced(node: ir.Node, shift: Vector) -> Vector | None:
    inputs = [constant(value) for value in node.inputs[1:]]
    if len(inputs) < 3 or any(value is None for value in inputs):
        return None
    starts, ends, axes = (np.asarray(value, int).tolist() for value in inputs[:3])
    steps = np.asarray(inputs[3], int).tolist() if len(inputs) > 3 else [1] * len(axes)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis in {CHANNEL, CHANNEL - 4}:
            shift = shift[start:end:step]
    return shift


def padded(node: ir.Node, shift: Vector) -> Vector | None:
    """Zeros for new channels keep their value; a shifted border would differ from the zeros beyond it."""
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    value = node.inputs[2] if len(node.inputs) > 2 else None
    fill = constant(value)
    if pads is None or pads.shape != (8,) or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    if text(node, "mode", "constant") != "constant" or (value is not None and (fill is None or np.any(fill))):
        return None
    before, after = np.asarray(pads, int).reshape(2, 4)
    if any(before[[0, 2, 3]]) or any(after[[0, 2, 3]]) or min(before[CHANNEL], after[CHANNEL]) < 0:
        return None
    return np.pad(shift, (before[CHANNEL], after[CHANNEL]))


def keeps_channels(node: ir.Node) -> bool:
    """Whether `carried` leaves every channel where it is, so that a wish for its output is one for its input."""
    probe = np.arange(1.0, MORE_CHANNELS)
    found = carried(node, probe)
    return found is not None and np.array_equal(found, probe)
