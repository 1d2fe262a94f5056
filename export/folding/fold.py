"""Fold every BatchNormalization of an ONNX graph into the weights around it, those on residual streams included."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from export.folding.consumers import Consumers, consumers_of
from export.folding.nodes import Affine, FoldError, Vector, affine_of, constant, name_of
from export.folding.stream import Shifts, shifts
from export.folding.weights import Weights, is_linear, new_initializer

OLDEST_OPSET = 11  # Pad, Slice and Clip took their arguments as inputs from then on
LARGEST_SHIFT = 1e3  # of |b / a|: float32 keeps a stream shifted by this to 6e-5
CONSTANT = 1e6  # beyond it `relu(a x + b)` is relu(b) to float32's precision, unless x is as large
IMAGE_RANK = 4  # N, C, H, W
NO_LIMIT = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Candidate:
    """A BatchNormalization that reads a stream, the ReLU behind it, and where that one's output goes."""

    node: ir.Node
    relu: ir.Node
    affine: Affine
    consumers: Consumers

    @property
    def value(self) -> ir.Value:
        assert self.node.inputs[0] is not None
        return self.node.inputs[0]


@dataclass
class FoldReport:
    """What became of the BatchNormalizations that no convolution's weights could take directly."""

    into_convolutions: int = 0
    folded: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"folded {len(self.folded)} of {len(self.folded) + len(self.left)}"]
        if self.into_convolutions:
            lines[0] += f", and {self.into_convolutions} into the convolution before them"
        return "\n".join(lines + [f"  left {name}: {reason}" for name, reason in self.left.items()])


@dataclass(frozen=True)
class Activation:
    """`scale * clip(x', low, high) + constant`, per channel, which stands for `relu(a x + b)`."""

    low: Vector
    high: Vector
    scale: Vector
    constant: Vector

    @property
    def is_relu(self) -> bool:
        return not self.low.any() and bool((self.high == NO_LIMIT).all())


def fold(model: ir.Model) -> FoldReport:
    """Fold in place; what does not fit is left as it is, and named.

    Raises:
        FoldError: the opset is too old, weights are shared, channels are dynamic, or external data is missing.
    """
    check(model)
    prepare(model)
    graph, report = model.graph, FoldReport()
    weights = Weights(graph)
    into_convolutions(graph, weights, report)
    candidates = find(graph, report)
    wanted = {candidate.value: target(candidate) for candidate in candidates}
    found = shifts(graph, {value: shift for value, shift in wanted.items() if not isinstance(shift, str)})
    found.blocked |= {value: reason for value, reason in wanted.items() if isinstance(reason, str)}
    settle(graph, weights, candidates, found, report)
    weights.write_back()
    RemoveUnusedNodesPass()(model)
    return report


def check(model: ir.Model) -> None:
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        raise FoldError(
            f"its opset is {opset}, expected at least {OLDEST_OPSET}: onnx.version_converter.convert_version renews it"
        )
    for value in model.graph.inputs:
        images = value.shape is not None and len(value.shape) == 4
        read = any(index == 0 and node.op_type in {"Conv", "BatchNormalization"} for node, index in value.uses())
        if images and read and not isinstance(value.shape[1], int):  # type: ignore[index]
            raise FoldError(f"{value.name} has shape {value.shape}: its channels, the second axis, have to be a number")


def prepare(model: ir.Model) -> None:
    """Every constant becomes an initializer, every computed one included; shapes become known."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(model.graph):
        content = constant(node.inputs[0]) if node.op_type == "Identity" else None
        if content is not None and not node.outputs[0].is_graph_output():
            own = new_initializer(model.graph, str(node.outputs[0].name), content)
            replace(model.graph, node, own)  # the older exporter lets equal parameters share one tensor
    older_pads = {"ConstantOfShape": True}  # left out by default; the older exporter computes Pad's widths with one
    fold_constants(model, onnx_shape_inference=True, should_fold=lambda node: older_pads.get(node.op_type))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def into_convolutions(graph: ir.Graph, weights: Weights, report: FoldReport) -> None:
    """What every runtime does as well: a BatchNormalization that alone reads a convolution becomes part of it."""
    for node in list(graph):
        if node.op_type != "BatchNormalization" or (affine := affine_of(node)) is None:
            continue
        value = node.inputs[0]
        producer = value.producer() if value is not None else None
        if value is None or producer is None or producer.op_type != "Conv" or not is_linear(producer):
            continue
        if len(value.uses()) > 1 or value.is_graph_output() or node.outputs[0].is_graph_output():
            continue
        weights.of(producer).affine_output(affine.scale, affine.offset)
        replace(graph, node, value)
        report.into_convolutions += 1


def find(graph: ir.Graph, report: FoldReport) -> list[Candidate]:
    candidates = []
    for node in graph:
        if node.op_type == "BatchNormalization":
            found = candidate_of(node)
            if isinstance(found, Candidate):
                candidates.append(found)
            else:
                report.left[name_of(node)] = found
    return candidates


def candidate_of(node: ir.Node) -> Candidate | str:
    """A candidate, or the reason why it is none."""
    affine = affine_of(node)
    if affine is None:
        return "its parameters are not constant, or it is in training mode"
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else None
    if rank != IMAGE_RANK:
        return f"its input has {'an unknown number of' if rank is None else rank} axes; images have {IMAGE_RANK}"
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Relu" or node.outputs[0].is_graph_output():
        readers = ", ".join(f"{name_of(user)} ({user.op_type})" for user, _ in uses) or "the graph's output"
        return f"it is read by {readers}, and not by one Relu alone"
    relu = uses[0].node
    consumers = consumers_of(relu.outputs[0])
    if consumers.obstacle is not None:
        return f"its scale has nowhere to go: {consumers.obstacle}"
    if consumers.signed and (affine.scale < 0).any():
        return f"{(affine.scale < 0).sum()} of its gammas are negative, and a MaxPool follows"
    return Candidate(node, relu, affine, consumers)


def is_constant(affine: Affine) -> NDArray[np.bool_]:
    """Channels that do not depend on x, as far as float32 can tell."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((affine.scale == 0) | (np.abs(affine.offset) > CONSTANT * np.abs(affine.scale)))


def target(candidate: Candidate) -> Vector | str:
    """The shift `b / a`; 0 for channels that are constant, and for those too large if a clip does as well.

    Else the reason why there is none: with a channel that has to stay, the whole BatchNormalization stays.
    """
    affine = candidate.affine
    constant_channels = is_constant(affine)
    ratio = np.where(constant_channels, 0, affine.offset / np.where(constant_channels, 1, affine.scale))
    too_large = np.abs(ratio) > LARGEST_SHIFT
    if too_large.any() and candidate.consumers.padded:
        return (
            f"{too_large.sum()} of its {len(ratio)} channels have |b / a| beyond {LARGEST_SHIFT:g}, up to "
            f"{np.abs(ratio).max():.3g}: shifted by that, float32 would lose digits"
        )
    return np.where(too_large, 0, ratio)


def settle(graph: ir.Graph, weights: Weights, candidates: list[Candidate], found: Shifts, report: FoldReport) -> None:
    """Rewrite all that reads or writes a shifted value."""
    for value, shift in found.of.items():
        producer = value.producer()
        if producer is not None and producer.op_type == "Conv":
            weights.of(producer).bias += shift
    for candidate in candidates:
        shift = found.of.get(candidate.value, np.zeros_like(candidate.affine.scale))
        activation = activation_of(candidate, shift)
        if isinstance(activation, Activation):
            activate(graph, weights, candidate, activation)
            report.folded.append(name_of(candidate.node))
        else:
            report.left[name_of(candidate.node)] = found.blocked.get(candidate.value, activation)
    for value, shift in found.of.items():
        for node, index in list(value.uses()):
            if node.op_type == "BatchNormalization":
                unshift(graph, node, shift)
            elif node.op_type == "Conv" and index == 0:
                weights.of(node).offset_input(-shift)


def activation_of(candidate: Candidate, shift: Vector) -> Activation | str:
    """`relu(a x + b)` in terms of `x' = x + shift`, or the reason why it has to stay a BatchNormalization.

    For a > 0 it is `a max(x', shift - b / a) + (b - a shift)`. The last term vanishes where the shift is `b / a`, and
    has to wherever zeros are padded, since it would be missing there.
    """
    scale, offset = candidate.affine.scale, candidate.affine.offset
    constant_channels = is_constant(candidate.affine)
    padded = candidate.consumers.padded
    safe_scale = np.where(constant_channels, 1, scale)
    threshold = shift - offset / safe_scale
    remainder = offset - scale * shift
    exact = np.abs(threshold) <= np.finfo(np.float64).eps * 4 * np.maximum(np.abs(shift), 1)
    unmet = ~exact & ~constant_channels
    if padded and unmet.any():
        return (
            f"{unmet.sum()} channels of {candidate.value.name} are not shifted as it needs, since no convolution that "
            "could do it writes there alone, and padding follows"
        )
    threshold, remainder = np.where(exact, 0, threshold), np.where(exact, 0, remainder)
    low = np.where(scale > 0, threshold, -NO_LIMIT)
    high = np.where(scale < 0, threshold, NO_LIMIT)
    dead, alive = constant_channels & (offset <= 0), constant_channels & (offset > 0)
    scale, remainder = np.where(constant_channels, 0, scale), np.where(constant_channels, 0, remainder)
    low, high = np.where(constant_channels, 0, low), np.where(constant_channels, NO_LIMIT, high)
    if padded:  # a constant that vanishes beyond the border: the activation itself is 1
        low, high = np.where(alive, 1, low), np.where(alive, 1, high)
        scale = np.where(alive, offset, scale)
    else:
        remainder = np.where(alive, offset, remainder)
    assert not dead.any() or not scale[dead].any()
    return Activation(low, high, scale, remainder)


def activate(graph: ir.Graph, weights: Weights, candidate: Candidate, activation: Activation) -> None:
    """Put the activation in the place of BatchNormalization and ReLU, its scale and constant into what follows."""
    for node in dict.fromkeys(candidate.consumers.linear):
        linear = weights.of(node)
        linear.offset_input(activation.constant)
        linear.scale_input(activation.scale)
    value, relu = candidate.value, candidate.relu
    if activation.is_relu:
        replace(graph, candidate.node, value)
        return
    dtype = constant(candidate.node.inputs[1]).dtype  # type: ignore[union-attr]
    for operator, limit, none in (("Max", activation.low, -NO_LIMIT), ("Min", activation.high, NO_LIMIT)):
        if (limit == none).all():
            continue
        name = f"{candidate.node.outputs[0].name}_{operator.lower()}"
        widest = np.finfo(dtype)
        content = limit.clip(float(widest.min), float(widest.max)).astype(dtype)
        bound = new_initializer(graph, name, content.reshape(1, -1, 1, 1))
        node = ir.node(operator, [value, bound])
        node.outputs[0].name, node.name = f"{name}_output", name
        node.outputs[0].shape, node.outputs[0].type = relu.outputs[0].shape, relu.outputs[0].type
        graph.insert_before(relu, node)
        value = node.outputs[0]
    replace(graph, relu, value)
    graph.remove(candidate.node, safe=True)


def unshift(graph: ir.Graph, node: ir.Node, shift: Vector) -> None:
    """A BatchNormalization that stays reads the shifted value: so is its mean."""
    mean = constant(node.inputs[3])
    assert mean is not None
    moved = (np.asarray(mean, np.float64) + shift).astype(mean.dtype)
    node.replace_input_with(3, new_initializer(graph, f"{node.outputs[0].name}_mean", moved))


def replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let everything that reads a node's output read a value instead."""
    ir.convenience.replace_all_uses_with(node.outputs[0], value)
    graph.remove(node, safe=True)
