"""The graph behind the heat map: class activation maps (Zhou et al. 2016, "Learning Deep Features", section 2).

The networks end in an average over all positions and a linear layer. Both are linear, so their order does not matter:

    logits = W mean(features) + b = mean(W features + b)

What is averaged on the right is a map of each class. The graph made here ends with it, in place of the average.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx.external_data_helper import set_external_data
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.artifact import CLASS_MAPS_FILE, GRAPH_FILE, TensorSpec
from export.folding.nodes import operator
from export.folding.weights import new_initializer

CLASS_MAPS = "class_maps"
ROUNDING = {"Cast", "QuantizeLinear", "DequantizeLinear"}  # of lower precisions: the maps do without it
SMALL = 1 << 10  # bytes; less is not worth a reference


class ClassMapsError(ValueError):
    """A graph does not end in an average over positions and a linear layer."""


def add_class_maps(folder: Path) -> TensorSpec:
    """Write the graph of the class maps beside an artifact's own, whose weights it reads; returns its output.

    Raises:
        ClassMapsError: the artifact's graph ends in something else.
    """
    maps = to_class_maps(onnx.load(folder / GRAPH_FILE))
    shape = [size.dim_value for size in maps.graph.output[0].type.tensor_type.shape.dim]
    refer_to_weights(maps, folder / GRAPH_FILE)
    onnx.save(maps, folder / CLASS_MAPS_FILE)
    onnx.checker.check_model(folder / CLASS_MAPS_FILE, full_check=True)
    return TensorSpec(name=CLASS_MAPS, dtype="float32", shape=("batch", *shape[1:]))


def to_class_maps(model: onnx.ModelProto) -> onnx.ModelProto:
    """uint8 pixels [N, H, W, 3] -> float32 [N, classes, h, w], whose mean over h and w are the model's logits."""
    model = onnx.shape_inference.infer_shapes(model)
    found = ir.from_proto(model)
    graph = found.graph
    head = producer(graph.outputs[0], "Gemm")
    features = producer(head.inputs[0], "ReduceMean").inputs[0]
    weight, *bias = head.inputs[1:]  # the exporter leaves out a bias of zeros

    axes = new_initializer(graph, f"{CLASS_MAPS}_axes", np.array([2, 3]))
    kernel = ir.node("Unsqueeze", [weight, axes])
    convolution = ir.node("Conv", [features, kernel.outputs[0], *bias])
    cast = ir.node("Cast", [convolution.outputs[0]], {"to": ir.DataType.FLOAT})
    for node, name in ((kernel, "kernel"), (convolution, "convolution"), (cast, "cast")):
        node.name = node.outputs[0].name = f"{CLASS_MAPS}_{name}"
        graph.append(node)
    maps = cast.outputs[0]
    maps.name = CLASS_MAPS
    assert features is not None
    assert features.shape is not None
    maps.shape = ir.Shape([features.shape[0], graph.outputs[0].shape[1], *features.shape[2:]])  # type: ignore[index]
    maps.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[:] = [maps]
    RemoveUnusedNodesPass()(found)
    made: onnx.ModelProto = ir.to_proto(found)
    return made


def producer(value: ir.Value | None, expected: str) -> ir.Node:
    """The operator behind a value, and behind what only rounds it."""
    node = value.producer() if value is not None else None
    while node is not None and operator(node) in ROUNDING:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or operator(node) != expected:
        raise ClassMapsError(f"the graph ends in {node.op_type if node else 'no operator'}, expected {expected}")
    return node


def refer_to_weights(model: onnx.ModelProto, other: Path) -> None:
    """Let every large initializer be read from where another file in the same folder has the same bytes."""
    content, after = other.read_bytes(), 0
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < SMALL:
            continue
        place = content.find(tensor.raw_data, after)  # most come in the order of the other file
        place = content.find(tensor.raw_data) if place < 0 else place
        if place >= 0:
            length, after = len(tensor.raw_data), place
            set_external_data(tensor, other.name, offset=place, length=length)
            tensor.ClearField("raw_data")
