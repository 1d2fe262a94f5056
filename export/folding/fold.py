"""Fold every BatchNormalization of an ONNX graph into the weights around it, those on residual streams included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from export.artifact import Precision
from export.folding.balance import balance
from export.folding.candidates import Candidate, find
from export.folding.gauge import apply, channel_classes
from export.folding.guard import GUARDS, Guard
from export.folding.nodes import (
    MEAN,
    STANDARD_DOMAINS,
    FoldError,
    Vector,
    affine_of,
    constant,
    leaves,
    operator,
)
from export.folding.stream import Shifts, shifts
from export.folding.weights import Weights, is_linear, new_initializer, set_parameter

OLDEST_OPSET = 11  # Pad, Slice and Clip took their arguments as inputs from then on
LARGEST_SHIFT = 1.5e3  # of |b / a|, in units of what x is expected to be: float32 keeps x to 1e-4 of that
CONSTANT = 3e5  # beyond it `relu(a x + b)` is relu(b) to 3e-6
PLAIN = "relu"
MONOTONE = {"Relu", "Max", "Min"}
NO_LIMIT = float(np.finfo(np.float32).max)


@dataclass
class FoldReport:
    """What became of the BatchNormalizations that no convolution's weights could take directly."""

    into_convolutions: int = 0
    folded: dict[str, str] = field(default_factory=dict)  # by name, into what
    left: dict[str, str] = field(default_factory=dict)  # by name, why
    gauge: tuple[float, float] | None = None  # the least and the largest scale that a channel of a stream was given

    @property
    def total(self) -> int:
        return len(self.folded) + len(self.left)

    def __str__(self) -> str:
        lines = [f"folded {len(self.folded)} of {self.total}"]
        if self.into_convolutions:
            lines[0] += f", and {self.into_convolutions} into the convolution before them"
        if self.gauge is not None:
            lines.append(f"  channels of the streams scaled by {self.gauge[0]:.3g} to {self.gauge[1]:.3g}")
        lines += [f"  folded {name}: {into}" for name, into in self.folded.items() if into != PLAIN]
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

    @property
    def description(self) -> str:
        """A ReLU, or how many channels need which bounds instead."""
        if self.is_relu:
            return PLAIN
        fixed = self.low == self.high
        kinds = {
            "a constant": fixed,
            "an upper bound": ~fixed & (self.high != NO_LIMIT),
            "a lower bound other than 0": ~fixed & (self.low != 0) & (self.low != -NO_LIMIT),
        }
        found = ", ".join(f"{which.sum()} with {kind}" for kind, which in kinds.items() if which.any())
        return f"clip, {found} of {len(self.low)} channels"


def fold(model: ir.Model, precision: Precision = Precision.FP32) -> FoldReport:
    """Fold in place; what does not fit, or costs the precision too much, is left as it is, and named.

    Raises:
        FoldError: the opset is too old, weights are shared, channels are dynamic, or external data is missing.
    """
    check(model)
    prepare(model)
    graph, report, guard = model.graph, FoldReport(), GUARDS[precision]
    weights = Weights(graph)
    into_convolutions(graph, weights, report)
    candidates, report.left = find(graph, guard)
    candidates = balanced(weights, candidates, guard, report)
    wanted = {candidate.value: target(candidate) for candidate in candidates}
    found = shifts(graph, {value: shift for value, shift in wanted.items() if not isinstance(shift, str)})
    found.blocked |= {value: reason for value, reason in wanted.items() if isinstance(reason, str)}
    settle(graph, weights, candidates, found, report)
    weights.write_back()
    before_pooling(graph)
    RemoveUnusedNodesPass()(model)
    return report


def before_pooling(graph: ir.Graph) -> None:
    """Conv, MaxPool, activation: an activation that rises monotonically may come first, where runtimes fuse it."""
    for pool in list(graph):
        if operator(pool) != "MaxPool" or len(pool.outputs) > 1 or leaves(pool.outputs[0]):
            continue
        source = pool.inputs[0]
        while source is not None and len(source.uses()) == len(pool.outputs[0].uses()) == 1:
            producer = source.producer()
            (activation, index), *_ = pool.outputs[0].uses()
            if producer is None or operator(producer) not in {"Conv", *MONOTONE}:
                break
            if (
                operator(activation) not in MONOTONE
                or index
                or leaves(activation.outputs[0])
                or not is_per_channel(activation)
            ):
                break
            activated = activation.outputs[0]
            ir.convenience.replace_all_uses_with(activated, pool.outputs[0])
            activation.replace_input_with(0, source)
            pool.replace_input_with(0, activated)
            activated.shape, activated.type = source.shape, source.type
            graph.remove(activation)
            graph.insert_before(pool, activation)
            source = activated


def is_per_channel(activation: ir.Node) -> bool:
    """Whether all bounds of an activation are constants, alike for all pixels of a channel."""
    bounds = [constant(value) for value in activation.inputs[1:]]
    return all(bound is not None and (bound.size == 1 or bound.shape[2:] == (1, 1)) for bound in bounds)


def balanced(
    weights: Weights, candidates: Sequence[Candidate], guard: Guard | None, report: FoldReport
) -> list[Candidate]:
    """Gauge the streams; returns the candidates as they are then, without those to be left for the precision's sake."""
    channels = channel_classes(weights.graph)
    found = balance(candidates, channels, guard)
    report.left |= found.left
    gauges = {value: found.gauge[classes] for value, classes in channels.of.items()}
    apply(weights, channels, found.gauge)
    if guard is not None and guard.uniform and gauges.keys() & {each.value for each in candidates}:
        used = np.concatenate([np.abs(gauges[each.value]) for each in candidates if each.value in gauges])
        report.gauge = float(used.min()), float(used.max())
    return [
        each.gauged(gauges[each.value]) if each.value in gauges else each
        for each in candidates
        if each.name not in found.left
    ]


def check(model: ir.Model) -> None:
    opset = max(model.opset_imports.get(domain, 0) for domain in STANDARD_DOMAINS)
    if opset < OLDEST_OPSET:
        raise FoldError(
            f"its opset is {opset}, expected at least {OLDEST_OPSET}: onnx.version_converter.convert_version renews it"
        )
    for value in model.graph.inputs:
        images = value.shape is not None and len(value.shape) == 4
        read = any(index == 0 and operator(node) in {"Conv", "BatchNormalization"} for node, index in value.uses())
        if images and read and not isinstance(value.shape[1], int):  # type: ignore[index]
            raise FoldError(f"{value.name} has shape {value.shape}: its channels, the second axis, have to be a number")


def prepare(model: ir.Model) -> None:
    """Every constant becomes an initializer, every computed one included; functions and shapes become known."""
    InlinePass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(model.graph):
        content = constant(node.inputs[0]) if operator(node) == "Identity" else None
        if content is not None and not leaves(node.outputs[0]):
            own = new_initializer(model.graph, str(node.outputs[0].name), content)
            replace(model.graph, node, own)  # the older exporter lets equal parameters share one tensor
    older_pads = {"ConstantOfShape": True}  # left out by default; the older exporter computes Pad's widths with one
    fold_constants(model, onnx_shape_inference=True, should_fold=lambda node: older_pads.get(operator(node)))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def into_convolutions(graph: ir.Graph, weights: Weights, report: FoldReport) -> None:
    """What every runtime does as well: a BatchNormalization that alone reads a convolution becomes part of it."""
    for node in list(graph):
        if operator(node) != "BatchNormalization" or (affine := affine_of(node)) is None:
            continue
        value = node.inputs[0]
        producer = value.producer() if value is not None else None
        if value is None or producer is None or operator(producer) != "Conv" or not is_linear(producer):
            continue
        if len(value.uses()) > 1 or leaves(value) or leaves(node.outputs[0]):
            continue
        weights.of(producer).affine_output(affine.scale, affine.offset)
        replace(graph, node, value)
        report.into_convolutions += 1


def is_constant(candidate: Candidate) -> NDArray[np.bool_]:
    """Channels that do not depend on x, as far as float32 can tell."""
    affine, usual = candidate.affine, candidate.expected.usual
    return np.asarray((affine.scale == 0) | (np.abs(affine.offset) > CONSTANT * np.abs(affine.scale) * usual))


def target(candidate: Candidate) -> Vector | str:
    """The shift `b / a`; what centres channels that are constant, and those too large if a clip does as well.

    Else the reason why there is none: with a channel that has to stay, the whole BatchNormalization stays.
    """
    affine = candidate.affine
    constant_channels = is_constant(candidate)
    ratio = np.where(constant_channels, 0, affine.offset / np.where(constant_channels, 1, affine.scale))
    centred = -candidate.expected.mean
    too_large = np.abs(ratio) > LARGEST_SHIFT * candidate.expected.usual
    if too_large.any() and candidate.consumers.padded:
        return (
            f"{too_large.sum()} of its {len(ratio)} channels have |b / a| beyond {LARGEST_SHIFT:g} times "
            f"what they carry, up to {np.abs(ratio).max():.3g}: shifted by that, float32 would lose digits"
        )
    return np.where(too_large | constant_channels, centred, ratio)


def settle(graph: ir.Graph, weights: Weights, candidates: list[Candidate], found: Shifts, report: FoldReport) -> None:
    """Rewrite all that reads or writes a shifted value."""
    for value, shift in found.of.items():
        producer = value.producer()
        if producer is not None and operator(producer) == "Conv":
            weights.of(producer).bias += shift
    for candidate in candidates:
        shift = found.of.get(candidate.value, np.zeros_like(candidate.affine.scale))
        activation = activation_of(candidate, shift)
        if isinstance(activation, Activation):
            activate(graph, weights, candidate, activation)
            report.folded[candidate.name] = activation.description
        else:
            report.left[candidate.name] = found.blocked.get(candidate.value, activation)
    for value, shift in found.of.items():
        for node, index in list(value.uses()):
            if operator(node) == "BatchNormalization":
                unshift(graph, node, shift)
            elif operator(node) == "Conv" and index == 0:
                weights.of(node).offset_input(-shift)


def activation_of(candidate: Candidate, shift: Vector) -> Activation | str:
    """`relu(a x + b)` in terms of `x' = x + shift`, or the reason why it has to stay a BatchNormalization.

    For a > 0 it is `a max(x', shift - b / a) + (b - a shift)`. The last term vanishes where the shift is `b / a`, and
    has to wherever zeros are padded, since it would be missing there.
    """
    scale, offset = candidate.affine.scale, candidate.affine.offset
    constant_channels = is_constant(candidate)
    padded = candidate.consumers.padded
    safe_scale = np.where(constant_channels, 1, scale)
    threshold = shift - offset / safe_scale
    remainder = offset - scale * shift
    exact = np.abs(threshold) <= np.finfo(np.float64).eps * 4 * np.maximum(np.abs(shift), 1)
    unmet = ~exact & ~constant_channels
    if padded and unmet.any():
        return (
            f"{unmet.sum()} channels of {candidate.value.name} are not shifted as it needs, since another reader of it "
            "needs something else, or no convolution writes there alone; and padding follows"
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
    for kind, limit, none in (("Max", activation.low, -NO_LIMIT), ("Min", activation.high, NO_LIMIT)):
        if (limit == none).all():
            continue
        name = f"{candidate.node.outputs[0].name}_{kind.lower()}"
        widest = np.finfo(dtype)
        content = limit.clip(float(widest.min), float(widest.max)).astype(dtype)
        bound = new_initializer(graph, name, content.reshape(1, -1, 1, 1))
        node = ir.node(kind, [value, bound])
        node.outputs[0].name, node.name = f"{name}_output", name
        node.outputs[0].shape, node.outputs[0].type = relu.outputs[0].shape, relu.outputs[0].type
        graph.insert_before(relu, node)
        value = node.outputs[0]
    replace(graph, relu, value)
    graph.remove(candidate.node, safe=True)


def unshift(graph: ir.Graph, node: ir.Node, shift: Vector) -> None:
    """A BatchNormalization that stays reads the shifted value: so is its mean."""
    mean = constant(node.inputs[MEAN])
    assert mean is not None
    set_parameter(graph, node, MEAN, np.asarray(mean, np.float64) + shift)


def replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let everything that reads a node's output read a value instead."""
    ir.convenience.replace_all_uses_with(node.outputs[0], value)
    graph.remove(node, safe=True)
