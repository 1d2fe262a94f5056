"""Where an activated tensor goes, and whether a scale and a constant per channel can go into the weights there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from export.folding.nodes import constant, integer, integers, is_padded, leaves, name_of, operator, reduces_space
from export.folding.weights import is_linear

OF_ANY_RANK = {"Identity", "Dropout", "Flatten", "Reshape"}
POOLS = {"AveragePool", "GlobalAveragePool", "Identity", "Dropout"}


@dataclass
class Consumers:
    """The linear nodes behind an activation, and what lies between.

    `obstacle` names a node that a scale cannot pass. `padded`: somewhere zeros are read beyond a border, where an added
    constant would be missing. `signed`: a maximum lies between, which a negative scale would turn into a minimum.
    """

    linear: list[ir.Node] = field(default_factory=list)
    padded: bool = False
    signed: bool = False
    obstacle: str | None = None


def consumers_of(value: ir.Value) -> Consumers:
    """Everything that an activation's output reaches before the next linear map."""
    found = Consumers()
    follow(value, found, flat=False)
    return found


def follow(value: ir.Value, found: Consumers, *, flat: bool) -> None:
    """`flat`: the channels, each with all its pixels, have become the last axis."""
    if leaves(value):
        found.obstacle = f"{value.name} is an output of the graph, or read inside a branch or loop"
    for node, index in value.uses():
        if index == 0 and is_linear(node) and (operator(node) == "Conv") is not flat:
            found.padded |= operator(node) == "Conv" and is_padded(node)
            found.linear.append(node)
        elif index == 0 and passes_scale(node) and (not flat or operator(node) in OF_ANY_RANK):
            found.padded |= operator(node) in {"AveragePool", "MaxPool"} and is_padded(node)
            found.signed |= operator(node) == "MaxPool"
            if any(output.uses() or leaves(output) for output in node.outputs[1:]):
                found.obstacle = f"{name_of(node)} tells where its largest values are"
            follow(node.outputs[0], found, flat=flat or flattens(node))
        elif operator(node) != "Shape":
            found.obstacle = f"{name_of(node)} ({operator(node)}) reads the activation"


def passes_scale(node: ir.Node) -> bool:
    """Whether a positive scale per channel can be applied after a node instead of before it."""
    if operator(node) == "ReduceMean":
        return reduces_space(node)
    return operator(node) in POOLS or operator(node) == "MaxPool" or flattens(node)


def flattens(node: ir.Node) -> bool:
    match operator(node):
        case "Flatten":
            return integer(node, "axis", 1) == 1
        case "Reshape":
            return reshapes_flat(node)
        case "Squeeze":
            axes = constant(node.inputs[1]) if len(node.inputs) > 1 else np.array(integers(node, "axes"))
            return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]
        case "ReduceMean":
            return reduces_space(node) and integer(node, "keepdims", 1) == 0
    return False


def reshapes_flat(node: ir.Node) -> bool:
    """Whether a Reshape to two axes is a Flatten: the images along the first, all of each along the second."""
    an_image, shape = elements_of_an_image(node.inputs[0]), constant(node.inputs[1])
    if shape is not None:
        return len(shape) == 2 and (shape[1] == an_image or (shape[0] == 0 and shape[1] == -1))
    parts = node.inputs[1].producer() if node.inputs[1] is not None else None
    if parts is None or operator(parts) != "Concat" or len(parts.inputs) != 2:
        return False
    rest = constant(parts.inputs[1])
    return is_batch_size(parts.inputs[0]) and rest is not None and int(rest.item()) in {-1, an_image}


def elements_of_an_image(value: ir.Value | None) -> int | None:
    sizes = list(value.shape[1:]) if value is not None and value.shape is not None else []
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if known and len(known) == len(sizes) else None


def is_batch_size(value: ir.Value | None) -> bool:
    """Whether a value is the size of some tensor's first axis; of images in one graph there is one."""
    producer = value.producer() if value is not None else None
    if producer is None:
        return False
    match operator(producer):
        case "Unsqueeze" | "Reshape":
            return is_batch_size(producer.inputs[0])
        case "Gather":
            index = constant(producer.inputs[1])
            return index is not None and index.size == 1 and not index.any() and is_shape(producer.inputs[0])
        case "Shape":
            return integer(producer, "start", 0) == 0 and integer(producer, "end", -1) == 1
    return False


def is_shape(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and operator(producer) == "Shape"
