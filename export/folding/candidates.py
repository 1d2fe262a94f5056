"""The BatchNormalizations on residual streams that folding may be able to replace."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.folding.consumers import Consumers, consumers_of
from export.folding.guard import Expected, Guard, expected
from export.folding.nodes import Affine, Vector, affine_of, leaves, name_of, operator

IMAGE_RANK = 4  # N, C, H, W


@dataclass(frozen=True)
class Candidate:
    """A BatchNormalization that reads a stream, the ReLU behind it, and where that one's output goes.

    `affine` is what it computes, as far as the precision can tell.
    """

    node: ir.Node
    relu: ir.Node
    affine: Affine
    expected: Expected
    consumers: Consumers

    @property
    def name(self) -> str:
        return name_of(self.node)

    @property
    def value(self) -> ir.Value:
        assert self.node.inputs[0] is not None
        return self.node.inputs[0]

    def gauged(self, gauge: Vector) -> Candidate:
        """The same where the stream carries `gauge * x`."""
        statistics = replace(
            self.expected, mean=self.expected.mean * gauge, spread=self.expected.spread * np.abs(gauge)
        )
        return replace(self, affine=Affine(self.affine.scale / gauge, self.affine.offset), expected=statistics)

    @property
    def largest_shift(self) -> float:
        """The largest |b / a|."""
        active = self.affine.scale != 0
        return float(np.abs(self.affine.offset[active] / self.affine.scale[active]).max(initial=0))


def find(graph: ir.Graph, guard: Guard | None) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates, and the reasons why other BatchNormalizations are none."""
    candidates, others = [], {}
    for node in graph:
        if operator(node) == "BatchNormalization":
            found = candidate_of(node, guard)
            if isinstance(found, Candidate):
                candidates.append(found)
            else:
                others[name_of(node)] = found
    return candidates, others


def candidate_of(node: ir.Node, guard: Guard | None) -> Candidate | str:
    """A candidate, or the reason why it is none."""
    affine = affine_of(node)
    if affine is None:
        return "its parameters are not constant or are inputs of the graph as well, or it is in training mode"
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else None
    if rank != IMAGE_RANK:
        return f"its input has {'an unknown number of' if rank is None else rank} axes; images have {IMAGE_RANK}"
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or operator(uses[0].node) != "Relu" or leaves(node.outputs[0]):
        readers = ", ".join(f"{name_of(user)} ({operator(user)})" for user, _ in uses) or "the graph's output"
        return f"it is read by {readers}, and not by one Relu alone"
    relu = uses[0].node
    consumers = consumers_of(relu.outputs[0])
    if consumers.obstacle is not None:
        return f"its scale has nowhere to go: {consumers.obstacle}"
    if consumers.signed and (affine.scale < 0).any():
        return f"{(affine.scale < 0).sum()} of its gammas are negative, and a MaxPool follows"
    statistics = expected(node, affine)
    if guard is not None:
        affine = statistics.simplified(affine, guard)
    return Candidate(node, relu, affine, statistics, consumers)
