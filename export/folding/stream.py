"""By how much each value of a residual stream is shifted, so that the BatchNormalizations that read it become ReLUs.

A BatchNormalization followed by a ReLU computes `relu(a x + b)`. With `x' = x + b/a` in the place of x that is
`a relu(x')` where a > 0, and `a min(x', 0)` where a < 0. What is carried along the stream therefore is not x but
x plus a shift per channel, which each convolution that writes into the stream adds by its bias.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from export.folding.nodes import Vector, affine_of, carried, constant, is_padded, keeps_channels, leaves, operator
from export.folding.weights import is_linear

Targets = Mapping[ir.Value, Vector]


@dataclass
class Shifts:
    """`of` maps each shifted value to its shift. `blocked` are the targets that cannot be met, and the reason."""

    of: dict[ir.Value, Vector] = field(default_factory=dict)
    blocked: dict[ir.Value, str] = field(default_factory=dict)


def shifts(graph: ir.Graph, targets: Targets) -> Shifts:
    """Shift the stream such that as many values as possible meet their target, and none reaches a node that minds."""
    blocked: dict[ir.Value, str] = {}
    while True:
        remaining = {value: target for value, target in targets.items() if value not in blocked}
        found = assign(graph, remaining)
        if not found.blocked:
            return Shifts(found.of, blocked)
        blocked |= found.blocked


def assign(graph: ir.Graph, targets: Targets) -> Shifts:
    """One pass from inputs to outputs; where a shift meets a node that minds it, its origins are blocked."""
    found = Shifts()
    origins: dict[ir.Value, set[ir.Value]] = {}
    for node in graph:
        output = node.outputs[0]
        if operator(node) == "Conv" and is_linear(node):
            wish = None if writes_into_a_sum(output) else desire(output, targets)
            if wish is not None and tolerates(output):
                found.of[output] = wish[1]
                origins[output] = {wish[0]}
        elif operator(node) == "Add":
            add(node, targets, found, origins)
        elif (shift := found.of.get(node.inputs[0]) if node.inputs and node.inputs[0] else None) is not None:
            after = carried(node, shift)
            if after is not None:
                found.of[output] = after
                origins[output] = origins[node.inputs[0]]  # type: ignore[index]
    return found


def add(node: ir.Node, targets: Targets, found: Shifts, origins: dict[ir.Value, set[ir.Value]]) -> None:
    """A sum is shifted by what its terms are shifted by; a convolution among them can make up any difference."""
    output = node.outputs[0]
    terms = [value for value in node.inputs if value is not None]
    given = [found.of[term] for term in terms if term in found.of]
    sources: set[ir.Value] = set().union(*(origins[term] for term in terms if term in found.of))
    at_ease = tolerates(output)
    wish = desire(output, targets) if at_ease else None
    widths = {len(shift) for shift in given} | ({len(wish[1])} if wish is not None else set())
    if len(widths) > 1:  # one value a pixel for all channels, say
        found.blocked |= dict.fromkeys(sources, f"the sum {output.name} broadcasts what would be shifted")
        return
    free = next((term for term in reversed(terms) if term not in found.of and writes_into_a_sum(term, widths)), None)
    total = np.sum(given, axis=0) if given else None
    if free is None:
        if total is not None and not at_ease:
            reason = f"the sum {output.name} is read by a node that minds a shift, and no convolution writes into it"
            found.blocked |= dict.fromkeys(sources, reason)
        elif total is not None:
            found.of[output], origins[output] = total, sources
        return
    if wish is not None:
        found.of[free] = wish[1] if total is None else wish[1] - total
        found.of[output], origins[output] = wish[1], {wish[0]}
    elif total is not None and at_ease:
        found.of[output], origins[output] = total, sources
    elif total is not None:
        found.of[free] = -total


def writes_into_a_sum(value: ir.Value, widths: Collection[int] = ()) -> bool:
    """Whether a value comes from a convolution and goes into one Add and nowhere else: its bias is free to choose.

    `widths`: the number of channels that it has to have, if any.
    """
    producer, uses = value.producer(), list(value.uses())
    if producer is None or operator(producer) != "Conv" or not is_linear(producer) or leaves(value):
        return False
    weight = constant(producer.inputs[1])
    fits = not widths or (weight is not None and weight.shape[0] in widths)
    return fits and len(uses) == 1 and operator(uses[0].node) == "Add"


def desire(value: ir.Value, targets: Targets) -> tuple[ir.Value, Vector] | None:
    """The target of a value, or of what pooling makes of it."""
    if value in targets:
        return value, targets[value]
    for node, index in value.uses():
        if index == 0 and keeps_channels(node) and (wish := desire(node.outputs[0], targets)) is not None:
            return wish
    return None


def tolerates(value: ir.Value) -> bool:
    """Whether everything that reads a value can be told of its shift."""
    return not leaves(value) and all(tolerates_use(node, index) for node, index in value.uses())


def tolerates_use(node: ir.Node, index: int) -> bool:
    match operator(node):
        case "BatchNormalization":
            return index == 0 and affine_of(node) is not None
        case "Conv":
            return index == 0 and is_linear(node) and not is_padded(node)
        case "Add":
            return True  # `add` sees to it
        case "Shape":
            return True
    return index == 0 and carried(node, np.ones(2)) is not None and tolerates(node.outputs[0])
