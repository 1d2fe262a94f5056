"""Small graphs that a careless fold gets wrong: what leaves a graph, other domains, several readers, odd constants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.__main__ import main
from export.artifact import Precision
from export.folding.fold import FoldReport, fold
from export.graph_session import cpu_options
from export.quantize import calibrate, quantize

C, SIZE = 4, 6
IMAGE = ("x", TensorProto.FLOAT, [2, 3, SIZE, SIZE])


class Graph:
    """Nodes with random weights, written down one after the other."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, value: np.ndarray | Sequence[float]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{operator}_{output}", **attributes))
        return output

    def conv(self, value: str, kernel: int = 1, inputs: int = C, output: str = "") -> str:
        weight = self.random.normal(0, 0.5, (C, inputs, kernel, kernel)).astype(np.float32)
        pads = {"pads": [kernel // 2] * 4} if kernel > 1 else {}
        return self.node("Conv", value, self.constant(weight), output=output, **pads)

    def stream(self) -> str:
        """A sum of two convolutions."""
        return self.node("Add", self.conv("x", inputs=3), self.conv("x", inputs=3))

    def norm(self, value: str, gamma: Sequence[float] = (1.0, 0.5, 1.5, 0.7)) -> str:
        others = (self.random.normal(0, 0.4, C), self.random.normal(0, 0.4, C), self.random.uniform(0.5, 2, C))
        parameters = [self.constant(np.asarray(each, np.float32)) for each in (gamma, *others)]
        return self.node("BatchNormalization", value, *parameters)

    def unit(self, value: str, gamma: Sequence[float] = (1.0, 0.5, 1.5, 0.7), kernel: int = 3, output: str = "") -> str:
        return self.conv(self.node("Relu", self.norm(value, gamma)), kernel, output=output)

    def branch(self, nodes: Sequence[onnx.NodeProto], output: str) -> None:
        """`If` with these nodes on one side, which may read values from outside, and zeros on the other."""
        zeros = numpy_helper.from_array(np.zeros((2, C, SIZE, SIZE), np.float32))
        other = [helper.make_node("Constant", [], ["zeros"], value=zeros)]
        bodies = {
            side: helper.make_graph(
                body, side, [], [helper.make_tensor_value_info(body[-1].output[0], TensorProto.FLOAT, None)]
            )
            for side, body in (("then_branch", nodes), ("else_branch", other))
        }
        self.node("If", "condition", output=output, **bodies)

    def model(
        self, *outputs: str, domains: Sequence[str] = (), functions: Sequence[onnx.FunctionProto] = ()
    ) -> onnx.ModelProto:
        inputs = [IMAGE, *([("condition", TensorProto.BOOL, [])] if any(n.op_type == "If" for n in self.nodes) else [])]
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), cpu_options(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).normal(size=IMAGE[2]).astype(np.float32)
    feeds = {value.name: image if value.name == "x" else np.array(True) for value in session.get_inputs()}
    return list(session.run(None, feeds))


@pytest.fixture(params=list(Precision))
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param


def folded(model: onnx.ModelProto, precision: Precision = Precision.FP32) -> FoldReport:
    """Fold, and hold the result against what it was; of these statistics no channel is constant to int8."""
    graph = ir.from_proto(model)
    report = fold(graph, precision)
    for before, after in zip(run(model), run(ir.to_proto(graph)), strict=True):
        assert np.abs(after - before).max() <= 1e-4 * np.abs(before).max()
    return report


def test_a_stream_is_not_negated_where_a_maximum_follows(precision: Precision) -> None:
    graph = Graph()
    stream = graph.stream()
    negative = (-1.0, -0.5, -1.5, -0.7)
    outputs = [graph.unit(stream, negative, kernel=1) for _ in range(2)]
    pooled = graph.node("MaxPool", graph.node("Relu", graph.norm(stream)), kernel_shape=[2, 2])
    folded(graph.model(*outputs, graph.conv(pooled)), precision)


def test_an_activation_that_is_an_output_stays_behind_its_pooling() -> None:
    graph = Graph()
    pooled = graph.node("MaxPool", graph.conv("x", inputs=3), kernel_shape=[2, 2])
    folded(graph.model(graph.node("Relu", pooled)))


def test_bounds_that_differ_by_pixel_stay_behind_the_pooling() -> None:
    graph = Graph()
    pooled = graph.node("MaxPool", graph.conv("x", inputs=3), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    bounds = graph.constant(graph.random.normal(size=(1, 1, SIZE, SIZE)).astype(np.float32))
    folded(graph.model(graph.conv(graph.node("Max", pooled, bounds))))


@pytest.mark.parametrize("operator", ["Identity", "MaxPool", "Add", "Relu"])
def test_what_a_branch_reads_keeps_its_values(operator: str, precision: Precision) -> None:
    graph = Graph()
    stream = graph.stream()
    attributes = {"kernel_shape": [1, 1]} if operator == "MaxPool" else {}
    second = [graph.constant(np.ones((1, C, 1, 1), np.float32))] if operator == "Add" else []
    graph.branch([helper.make_node(operator, [stream, *second], ["inside"], **attributes)], "branched")
    report = folded(graph.model(graph.unit(stream), "branched"), precision)
    assert len(report.left) == 1


def test_an_activation_inside_a_branch_is_no_candidate() -> None:
    graph = Graph()
    norm = graph.norm(graph.stream(), (1.0, -1.0, 1.0, -1.0))
    graph.branch([helper.make_node("Relu", [norm], ["inside"])], "branched")
    assert len(folded(graph.model("branched")).left) == 1


def test_an_operator_of_another_domain_is_not_taken_for_the_standard_one() -> None:
    graph = Graph()
    norm = graph.norm(graph.stream())
    graph.nodes.append(helper.make_node("Relu", [norm], ["activated"], domain="local"))
    body = [helper.make_node("Sigmoid", ["a"], ["b"])]
    function = helper.make_function("local", "Relu", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    report = folded(graph.model(graph.conv("activated"), domains=["local"], functions=[function]))
    (reason,) = report.left.values()
    assert "and not by one Relu alone" in reason


def test_a_unit_inside_a_function_is_folded() -> None:
    graph = Graph()
    stream = graph.stream()
    norm = graph.norm(stream)
    body = graph.nodes.pop()
    function = helper.make_function("local", "Norm", list(body.input), [norm], [body], [helper.make_opsetid("", 17)])
    graph.nodes.append(helper.make_node("Norm", list(body.input), [norm], domain="local"))
    output = graph.conv(graph.node("Relu", norm), 3)
    assert len(folded(graph.model(output, domains=["local"], functions=[function])).folded) == 1


@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (5,), (1, 5), (1,)])
def test_a_gemm_may_add_anything(shape: tuple[int, ...]) -> None:
    graph = Graph()
    pooled = graph.node("GlobalAveragePool", graph.node("Relu", graph.norm(graph.stream(), (1.0, -1.0, 0.0, 2.0))))
    weight = graph.constant(graph.random.normal(size=(C, 5)).astype(np.float32))
    bias = graph.constant(graph.random.normal(size=shape).astype(np.float32))
    folded(graph.model(graph.node("Gemm", graph.node("Flatten", pooled), weight, bias)))


def test_new_names_are_new_to_the_inputs_too() -> None:
    graph = Graph()
    first = graph.conv("x", inputs=3, output="first")
    model = graph.model(graph.unit(graph.node("Add", first, graph.conv("x", inputs=3, output="second"))))
    model.graph.input.append(helper.make_tensor_value_info("second_bias", TensorProto.FLOAT, [C]))
    graph_of = ir.from_proto(model)
    assert fold(graph_of).folded
    assert not {value.name for value in graph_of.graph.inputs} & set(graph_of.graph.initializers)


def test_places_of_largest_values_are_not_scaled() -> None:
    graph = Graph()
    activated = graph.node("Relu", graph.norm(graph.stream(), (1.0, 0.5, 0.0, 0.7)))
    graph.nodes.append(helper.make_node("MaxPool", [activated], ["pooled", "places"], kernel_shape=[2, 2]))
    graph.nodes.append(helper.make_node("Cast", ["places"], ["as_floats"], to=TensorProto.FLOAT))
    (reason,) = folded(graph.model(graph.conv("pooled"), "as_floats")).left.values()
    assert "tells where its largest values are" in reason


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_size_of_a_stream_makes_no_channel_constant(scale: float) -> None:
    graph = Graph()
    outputs = []
    stream = graph.stream()
    for name in [name for name, value in graph.constants.items() if value.ndim == 4]:
        graph.constants[name] = graph.constants[name] * np.float32(scale)
    for gamma in ((0.01, 1.0, 0.5, 0.1), (1.0, 0.01, 0.5, 0.1)):
        outputs.append(graph.unit(stream, gamma))
        mean, variance = list(graph.constants)[-3:-1]
        graph.constants[mean] = graph.constants[mean] * np.float32(scale)
        graph.constants[variance] = graph.constants[variance] * np.float32(scale**2)
    folded(graph.model(*outputs))


def test_only_activations_of_constants_become_integers() -> None:
    graph = Graph()
    stream = graph.stream()
    larger = graph.node("Max", stream, graph.conv("x", inputs=3))
    bounded = graph.node("Max", stream, graph.constant(np.full((1, C, 1, 1), 3.0, np.float32)))
    model = graph.model(graph.conv(larger), graph.conv(bounded))
    image = np.random.default_rng(1).normal(size=IMAGE[2]).astype(np.float32)
    quantized = quantize(model, calibrate(model, [image]))
    for before, after in zip(run(model), run(quantized), strict=True):
        assert np.abs(after - before).max() <= 0.05 * np.abs(before).max()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00"])
def test_inputs_that_are_no_arrays_are_one_clear_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = Graph()
    onnx.save(onnx.shape_inference.infer_shapes(graph.model(graph.unit(graph.stream()))), tmp_path / "in.onnx")
    (tmp_path / "inputs.npz").write_bytes(content)
    out = tmp_path / "out.onnx"
    assert main(["fold", str(tmp_path / "in.onnx"), str(out), "--inputs", str(tmp_path / "inputs.npz")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected an npz file with an array for each input" in line
    assert not out.exists()


def test_a_folder_is_no_place_to_write_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph()
    onnx.save(onnx.shape_inference.infer_shapes(graph.model(graph.unit(graph.stream()))), tmp_path / "in.onnx")
    assert main(["fold", str(tmp_path / "in.onnx"), str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}: cannot be written")


def test_the_file_itself_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, path = Graph(), tmp_path / "in.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(graph.model(graph.unit(graph.stream()))), path)
    before = path.read_bytes()
    (tmp_path / "again.onnx").symlink_to(path)
    assert main(["fold", str(path), str(tmp_path / "again.onnx")]) == 2
    assert "OUT is the same file" in capsys.readouterr().err
    assert path.read_bytes() == before
