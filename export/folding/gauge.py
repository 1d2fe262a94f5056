"""A scale per channel for every residual stream, so that one int8 scale fits all of its channels.

A stream that carries `g x` instead of x is the same network when what writes into it is multiplied by g and what reads
it divides by g; convolutions and BatchNormalizations absorb both. Identity shortcuts add g x to g x: g is one for all
values that they connect, channel by channel. A negative g turns a negative gamma into a positive one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from export.folding.nodes import GAMMA, MEAN, Vector, affine_of, carried, constant, leaves, operator
from export.folding.weights import Weights, is_linear, set_parameter

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Channels:
    """The channels of all values that a gauge may reach, sorted into classes which have to share one.

    `of` maps a value to the class of each of its channels; `fixed` and `positive` are per class: one that has to stay
    as it is, and one that may not change its sign.
    """

    of: dict[ir.Value, Indices]
    fixed: NDArray[np.bool_]
    positive: NDArray[np.bool_]


def channel_classes(graph: ir.Graph) -> Channels:
    numbers: dict[ir.Value, Indices] = {}
    pairs: list[tuple[Indices, Indices]] = []
    total = 0
    for node in graph:
        output = node.outputs[0]
        width = width_of(node, numbers)
        if width is None:
            continue
        numbers[output] = np.arange(total, total + width)
        total += width
        pairs += linked(node, numbers)
    left = np.concatenate([pair[0] for pair in pairs]) if pairs else np.zeros(0, int)
    right = np.concatenate([pair[1] for pair in pairs]) if pairs else np.zeros(0, int)
    edges = coo_array((np.ones(len(left)), (left, right)), shape=(total, total))
    count, classes = connected_components(edges, directed=False)
    of = {value: classes[channels] for value, channels in numbers.items()}
    fixed, positive = np.zeros(count, bool), np.zeros(count, bool)
    for value, own in of.items():
        for node, index in value.uses():
            fixed[own] |= not absorbs(node, index) and node.outputs[0] not in of
            positive[own] |= operator(node) == "MaxPool"
        fixed[own] |= leaves(value)
    return Channels(of, fixed, positive)


def width_of(node: ir.Node, numbers: dict[ir.Value, Indices]) -> int | None:
    """The number of channels of a node's output, where a gauge may pass through it."""
    if operator(node) == "Conv" and is_linear(node):
        weight = constant(node.inputs[1])
        return None if weight is None else int(weight.shape[0])
    if operator(node) == "Add":
        widths = {len(numbers[term]) if term in numbers else None for term in node.inputs if term is not None}
        return widths.pop() if len(widths) == 1 else None
    source = node.inputs[0] if node.inputs else None
    if source is None or source not in numbers:
        return None
    passed = carried(node, numbers[source].astype(np.float64))
    return None if passed is None else len(passed)


def linked(node: ir.Node, numbers: dict[ir.Value, Indices]) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of channels of input and output that are one."""
    output = numbers[node.outputs[0]]
    if operator(node) == "Add":
        yield from ((numbers[term], output) for term in node.inputs if term is not None)
    elif operator(node) != "Conv" and node.inputs[0] is not None:
        source = carried(node, numbers[node.inputs[0]].astype(np.float64) + 1)  # 0: a channel that Pad made
        assert source is not None
        yield source[source > 0].astype(np.intp) - 1, output[source > 0]


def absorbs(node: ir.Node, index: int) -> bool:
    """Whether a node can divide by the gauge what it reads."""
    if operator(node) == "BatchNormalization":
        return index == 0 and affine_of(node) is not None
    return operator(node) == "Shape" or (operator(node) == "Conv" and index == 0 and is_linear(node))


def apply(weights: Weights, channels: Channels, gauge: Vector) -> None:
    """Let every value carry `gauge[class]` times what it did."""
    for value, classes in channels.of.items():
        own = gauge[classes]
        producer = value.producer()
        if (own == 1).all() or producer is None:
            continue
        if operator(producer) == "Conv":
            weights.of(producer).affine_output(own, np.zeros_like(own))
        for node, _ in list(value.uses()):
            if operator(node) == "Conv":
                weights.of(node).scale_input(1 / own)
            elif operator(node) == "BatchNormalization":
                regauge(weights.graph, node, own)


def regauge(graph: ir.Graph, node: ir.Node, gauge: Vector) -> None:
    """A BatchNormalization that reads `gauge * x` where it read x."""
    for index, factor in ((GAMMA, 1 / gauge), (MEAN, gauge)):
        content = constant(node.inputs[index])
        assert content is not None
        set_parameter(graph, node, index, np.asarray(content, np.float64) * factor)
