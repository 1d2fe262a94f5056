"""A float graph to an int8 one (Q/DQ nodes), made for the runtime that is to run it.

ONNX Runtime's CPU kernels want uint8 activations, int8 weights per output channel and quantized biases. A ReLU behind a
residual sum that others read as well would cost it a DequantizeLinear and a QuantizeLinear; with the scale and zero
point of its input it is a maximum of integers instead. TensorRT wants symmetric int8 and float biases.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from export.folding.nodes import constant, operator
from export.folding.weights import new_initializer

Ranges = dict[str, tuple[float, float]]  # the least and the largest value, by tensor
NO_BOUND = 1e30  # a channel without a limit has the largest float instead
INTEGER_ALIKE = {"Relu", "Max", "Min"}  # of these, the maximum of two integers is the integer of the maximum


# BatchNormalization is left in float: its gamma and beta, one scale for all channels, would lose the small ones
OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry} - {"BatchNormalization"})


class MadeFor(StrEnum):
    """The runtime whose kernels an int8 graph is shaped for."""

    ONNXRUNTIME = "onnxruntime"  # its kernels for CPUs
    PORTABLE = "portable"  # any that knows Q/DQ nodes; what it does with a float ReLU is its own affair
    TENSORRT = "tensorrt"


@dataclass(frozen=True)
class Form:
    """What quantized tensors look like."""

    activations: QuantType
    options: Mapping[str, bool]
    integer_activations: bool


FORMS = {
    MadeFor.ONNXRUNTIME: Form(QuantType.QUInt8, {}, integer_activations=True),
    MadeFor.PORTABLE: Form(QuantType.QUInt8, {}, integer_activations=False),
    MadeFor.TENSORRT: Form(
        QuantType.QInt8,
        {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        integer_activations=False,
    ),
}


class PrecisionError(ValueError):
    """A graph cannot be had in a lower precision, or loses too much by it."""


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """What ONNX Runtime's calibrator reads."""

    def __init__(self, name: str, batches: Iterable[NDArray[np.uint8]]) -> None:
        self.feeds = ({name: batch} for batch in batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.feeds, None)


def calibrate(model: onnx.ModelProto, batches: Iterable[NDArray[np.uint8]]) -> Ranges:
    """The least and largest value of each tensor over all images, uint8 [N, H, W, 3] a batch."""
    with tempfile.TemporaryDirectory(prefix="preflight-calibration-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(path, augmented_model_path=str(Path(folder) / "augmented.onnx"))
        calibrator.collect_data(Batches(model.graph.input[0].name, batches))
        found = calibrator.compute_data()
        return {name: (data.lowest.item(), data.highest.item()) for name, data in found.items()}


def quantize(model: onnx.ModelProto, ranges: Ranges, made_for: MadeFor = MadeFor.ONNXRUNTIME) -> onnx.ModelProto:
    """An int8 graph of the same inputs and outputs.

    Raises:
        PrecisionError: `ranges` are of another graph.
    """
    form = FORMS[made_for]
    missing = {node.output[0] for node in model.graph.node if operator(node) in {"Conv", "Add", "Gemm"}} - ranges.keys()
    if missing:
        raise PrecisionError(f"the ranges do not fit the graph: {min(missing)} has none; calibrate again")
    if form.integer_activations:
        ranges = ranges | shared(ir.from_proto(model).graph, ranges)
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=form.activations,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=OPERATORS,
        extra_options=dict(form.options),
    )
    try:
        quantizer.quantize_model()
    except ValueError as error:
        raise PrecisionError(f"the ranges do not fit the graph: {error}; calibrate again") from error
    graph = ir.from_proto(quantizer.model.model)
    TopologicalSortPass()(graph)
    if form.integer_activations:
        to_integers(graph.graph)
        RemoveUnusedNodesPass()(graph)
    quantized: onnx.ModelProto = ir.to_proto(graph)
    onnx.checker.check_model(quantized)
    return quantized


def shared(graph: ir.Graph, ranges: Ranges) -> Ranges:
    """Activations that take the range of their input: others read that too, or the bounds differ by channel."""
    found: Ranges = {}
    chains: dict[str, list[str]] = {}
    for node in graph:
        source = node.inputs[0] if is_integer_alike(node) else None
        if source is None or source.name is None or source.name not in ranges:
            continue
        if operator(node) != "Relu" or len(source.uses()) > 1:
            output = str(node.outputs[0].name)
            chains[output] = [*chains.get(source.name, [source.name]), output]
            low, high = found.get(source.name, ranges[source.name])
            bounds = [float(bound) for bound in bounds_of(node) if abs(bound) < NO_BOUND]
            found |= dict.fromkeys(chains[output], (min([low, *bounds]), max([high, *bounds])))
    return found


def is_integer_alike(node: ir.Node) -> bool:
    bounds = [constant(value) for value in node.inputs[1:]]
    return operator(node) in INTEGER_ALIKE and len(bounds) < 2 and all(bound is not None for bound in bounds)


def bounds_of(node: ir.Node) -> NDArray[np.float64]:
    """What an activation may limit its input to; 0 for a ReLU."""
    return np.zeros(1) if operator(node) == "Relu" else np.asarray(constant(node.inputs[1]), np.float64).reshape(-1)


def to_integers(graph: ir.Graph) -> None:
    """DequantizeLinear, maxima and minima, QuantizeLinear by the same scale: maxima and minima of integers."""
    for before in list(graph):
        if operator(before) != "DequantizeLinear":
            continue
        for chain, after in activations_behind(before.outputs[0]):
            scale, zero_point = parameters(before)
            if operator(after) != "QuantizeLinear" or not all(
                map(np.array_equal, (scale, zero_point), parameters(after))
            ):
                continue
            value = before.inputs[0]
            for node in chain:
                value = on_integers(graph, node, value, scale, zero_point, at=after)
            ir.convenience.replace_all_uses_with(after.outputs[0], value)  # type: ignore[arg-type]


def activations_behind(value: ir.Value) -> Iterator[tuple[list[ir.Node], ir.Node]]:
    """Chains of activations that read a value, each with the node that alone reads its last."""
    for first, _ in value.uses():
        chain, node = [], first
        while is_integer_alike(node) and len(node.outputs[0].uses()) == 1:
            chain.append(node)
            node = next(iter(node.outputs[0].uses())).node
        if chain:
            yield chain, node


def parameters(node: ir.Node) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear."""
    scale, zero_point = (constant(value) for value in node.inputs[1:3])
    assert scale is not None
    assert zero_point is not None
    return scale, zero_point


def on_integers(
    graph: ir.Graph,
    node: ir.Node,
    value: ir.Value | None,
    scale: NDArray[np.generic],
    zero_point: NDArray[np.generic],
    at: ir.Node,
) -> ir.Value:
    """Put the integers' equivalent of an activation of `value` before the node `at`."""
    assert value is not None
    name = f"{node.outputs[0].name}_integer"
    if operator(node) == "Relu":
        made = ir.node("Clip", [value, new_initializer(graph, f"{name}_low", zero_point)])
    else:
        limits = np.iinfo(np.uint8)
        bounds = np.rint(np.asarray(constant(node.inputs[1]), np.float64) / float(scale.item())) + int(
            zero_point.item()
        )
        bounds = bounds.clip(limits.min, limits.max).astype(np.uint8)
        made = ir.node(operator(node), [value, new_initializer(graph, f"{name}_bounds", bounds)])
    made.name, made.outputs[0].name = name, f"{name}_output"
    made.outputs[0].shape, made.outputs[0].type = value.shape, value.type
    graph.insert_before(at, made)
    return made.outputs[0]
