"""Weights of convolutions and linear maps while they are rewritten, in float64 until all is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.folding.nodes import FoldError, Vector, constant, integer, leaves, name_of, operator

Array = NDArray[np.float64]


@dataclass
class Linear:
    """A Conv, Gemm or MatMul as groups of [group, out, in, kernel] weights and a bias [group * out]."""

    node: ir.Node
    weight: Array
    bias: Vector

    def scale_input(self, scale: Vector) -> None:
        """Absorb `scale * x` for x."""
        self.weight *= self.by_input(scale)

    def offset_input(self, offset: Vector) -> None:
        """Absorb `x + offset` for x; exact where no padding is read."""
        self.bias += (self.weight * self.by_input(offset)).sum((2, 3)).reshape(-1)

    def affine_output(self, scale: Vector, offset: Vector) -> None:
        """Absorb `scale * y + offset` for its output y."""
        groups, out = self.weight.shape[:2]
        self.weight *= scale.reshape(groups, out, 1, 1)
        self.bias = self.bias * scale + offset

    def by_input(self, values: Vector) -> Array:
        """Per-channel values as they meet the weights; a flattened input has each channel several times in a row."""
        groups, _, inputs, _ = self.weight.shape
        repeats = groups * inputs // len(values)
        return np.repeat(values, repeats).reshape(groups, 1, inputs, 1)


class Weights:
    """All linear nodes that folding has touched."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.linear: dict[ir.Node, Linear] = {}

    def of(self, node: ir.Node) -> Linear:
        """Raises FoldError where another node uses the same weights."""
        if node not in self.linear:
            self.linear[node] = read(node)
        return self.linear[node]

    def write_back(self) -> None:
        for linear in self.linear.values():
            write(self.graph, linear)


def is_linear(node: ir.Node) -> bool:
    """Whether a node is a linear map of its first input with constant weights, as `Linear` knows them."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or (bias is not None and constant(bias) is None):
        return False
    match operator(node):
        case "Conv":
            return True
        case "Gemm":
            alpha, beta = (node.attributes.get(name) for name in ("alpha", "beta"))
            plain = all(factor is None or factor.as_float() == 1 for factor in (alpha, beta))
            outputs = weight.shape[0 if is_transposed(node) else 1]
            found = constant(bias)
            each = found is None or found.size == 1 or (found.shape[-1] == found.size == outputs)
            return plain and each and not integer(node, "transA", 0)
        case "MatMul":
            return weight.ndim == 2
    return False


def read(node: ir.Node) -> Linear:
    shared = node.inputs[1]
    if shared is not None and (len(shared.uses()) > 1 or leaves(shared)):
        users = ", ".join(sorted(name_of(user) for user, _ in shared.uses()))
        raise FoldError(f"{shared.name} is shared by {users}; folding needs weights of their own: copy them")
    stored = np.asarray(constant(node.inputs[1]), np.float64)
    if operator(node) == "Conv":
        groups = integer(node, "group", 1)
        weight = stored.reshape(groups, stored.shape[0] // groups, stored.shape[1], -1)
    else:
        matrix = stored if is_transposed(node) else stored.T
        weight = matrix.reshape(1, *matrix.shape, 1).copy()
    outputs = weight.shape[0] * weight.shape[1]
    found = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    bias = np.zeros(outputs) if found is None else np.broadcast_to(np.asarray(found, np.float64).reshape(-1), outputs)
    return Linear(node, weight, bias.copy())


def is_transposed(node: ir.Node) -> bool:
    return operator(node) == "Gemm" and bool(integer(node, "transB", 0))


def write(graph: ir.Graph, linear: Linear) -> None:
    node = linear.node
    before = node.inputs[1]
    assert before is not None
    assert before.const_value is not None
    stored = before.const_value.numpy()
    if operator(node) == "Conv":
        weight = linear.weight.reshape(stored.shape)
    else:
        matrix = linear.weight.reshape(linear.weight.shape[1:3])
        weight = matrix if is_transposed(node) else matrix.T
    before.const_value = ir.tensor(np.ascontiguousarray(weight, stored.dtype), name=before.name)
    if not linear.bias.any() and len(node.inputs) < 3:
        return
    bias = linear.bias.astype(stored.dtype)
    if operator(node) == "MatMul":
        add_after(graph, node, bias)
    else:
        set_bias(graph, node, bias)


def set_bias(graph: ir.Graph, node: ir.Node, bias: NDArray[np.generic]) -> None:
    old = node.inputs[2] if len(node.inputs) > 2 else None
    if old is not None and len(old.uses()) == 1:
        old.const_value = ir.tensor(bias, name=old.name)
        old.shape = ir.Shape(bias.shape)
        return
    node.resize_inputs(3)
    node.replace_input_with(2, new_initializer(graph, f"{node.outputs[0].name}_bias", bias))


def add_after(graph: ir.Graph, node: ir.Node, bias: NDArray[np.generic]) -> None:
    output = node.outputs[0]
    added = ir.node("Add", [output, new_initializer(graph, f"{output.name}_bias", bias)])
    uses = list(output.uses())
    graph.insert_after(node, added)
    for user, index in uses:
        if user is not added:
            user.replace_input_with(index, added.outputs[0])
    for index, value in enumerate(graph.outputs):
        if value is output:  # whoever calls the graph knows the name
            output.name, added.outputs[0].name = f"{output.name}_unbiased", output.name
            added.outputs[0].shape, added.outputs[0].type = output.shape, output.type
            graph.outputs[index] = added.outputs[0]


def new_initializer(graph: ir.Graph, name: str, content: NDArray[np.generic]) -> ir.Value:
    taken = set(graph.initializers) | {value.name for value in graph.inputs}
    taken |= {value.name for node in graph.all_nodes() for value in node.outputs}
    unique, number = name, 1
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(content, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(content.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_parameter(graph: ir.Graph, node: ir.Node, index: int, content: Vector) -> None:
    """Give a BatchNormalization a parameter of its own; others may share the one that it had."""
    value, before = node.inputs[index], constant(node.inputs[index])
    assert value is not None
    assert before is not None
    node.replace_input_with(
        index,
        new_initializer(graph, f"{value.name}_of_{node.outputs[0].name}", content.astype(before.dtype)),
    )
