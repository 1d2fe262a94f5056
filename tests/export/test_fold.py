"""Folding changes no answer, whatever the statistics, leaves nothing that fits, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.__main__ import main
from export.folding.fold import CONSTANT, LARGEST_SHIFT, FoldReport, fold
from export.source import open_source
from export.to_onnx import INPUT, ServedGraph
from models.choice import choice_of
from models.data import normalised
from models.resnet import ResNet, build
from models.spec import BlockKind, BlockOrdering, ModelSpec, Preprocessing, Shortcut, Stem, spec_for
from tests.conftest import SHARED_DATA
from tests.conversions import converted
from tests.models.test_resnet import randomise_batch_norms

SMALL = Preprocessing(32, 32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLOSE = 1e-4  # of the largest logit


def small(stem: Stem, block: BlockKind, depth: int, shortcut: Shortcut) -> ModelSpec:
    return ModelSpec(BlockOrdering.PRE_ACTIVATION, stem, block, depth, shortcut, 10, SMALL)


SPECS = {
    "cifar-basic-a": small(Stem.CIFAR, BlockKind.BASIC, 8, Shortcut.OPTION_A),
    "cifar-basic-b": small(Stem.CIFAR, BlockKind.BASIC, 14, Shortcut.PROJECTION),
    "cifar-bottleneck-a": small(Stem.CIFAR, BlockKind.BOTTLENECK, 11, Shortcut.OPTION_A),
    "cifar-bottleneck-b": small(Stem.CIFAR, BlockKind.BOTTLENECK, 20, Shortcut.PROJECTION),
    "imagenet-basic-a": small(Stem.IMAGENET, BlockKind.BASIC, 18, Shortcut.OPTION_A),
    "imagenet-basic-b": small(Stem.IMAGENET, BlockKind.BASIC, 18, Shortcut.PROJECTION),
}


@pytest.fixture(scope="module", params=SPECS)
def exported(request: pytest.FixtureRequest) -> tuple[ResNet, onnx.ModelProto]:
    """A network and its graph; the graph's remaining BatchNormalizations are those on the stream."""
    network = build(SPECS[request.param], seed=0).eval()
    randomise_batch_norms(network)  # equal statistics would become one tensor
    return network, converted(ServedGraph(network, SMALL))


def stream_norms(network: ResNet, model: onnx.ModelProto) -> list[nn.BatchNorm2d]:
    names = [node.input[1] for node in model.graph.node if node.op_type == "BatchNormalization"]
    return [network.get_submodule(name.removeprefix("network.").removesuffix(".weight")) for name in names]  # type: ignore[misc]


def randomise(norm: nn.BatchNorm2d, generator: np.random.Generator, negative: float, zero: float, tiny: float) -> None:
    """Ordinary statistics, but for a share of negative, of zero and of tiny gammas, 1e-2 to 1e-9."""
    n = norm.num_features
    gamma = generator.uniform(0.3, 1.5, n) * np.where(generator.random(n) < negative, -1, 1)
    gamma = np.where(generator.random(n) < tiny, gamma * 10 ** generator.uniform(-9, -2, n), gamma)
    gamma = np.where(generator.random(n) < zero, 0, gamma)
    values = {
        "weight": gamma,
        "bias": generator.normal(0, 0.4, n),
        "running_mean": generator.normal(0, 0.4, n),
        "running_var": generator.uniform(0.5, 2, n),
    }
    for name, value in values.items():
        getattr(norm, name).data.copy_(torch.from_numpy(value))


def with_weights(model: onnx.ModelProto, network: ResNet) -> ir.Model:
    graph = ir.from_proto(model)
    state = {f"network.{name}": tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    for node in graph.graph:
        if node.op_type == "BatchNormalization":
            for value in node.inputs[1:5]:
                assert value is not None
                assert value.name is not None
                value.const_value = ir.tensor(state[value.name], name=value.name)
    return graph


def run(model: ir.Model, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    batches = (pixels[start : start + 100] for start in range(0, len(pixels), 100))
    return np.concatenate([session.run(None, {INPUT: batch})[0] for batch in batches])


def in_float64(network: ResNet, pixels: np.ndarray) -> np.ndarray:
    images = normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2), SMALL)
    with torch.inference_mode():
        logits = network.double()(images.double()).numpy()
    network.float()
    return np.asarray(logits)


def pixels_of(n: int, crop: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, crop, crop, 3), dtype=np.uint8)


def norms_left(model: ir.Model) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph)


SHARES = st.sampled_from([0.0, 0.1, 0.5])


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32 - 1), negative=SHARES, zero=SHARES, tiny=SHARES)
def test_no_statistics_change_an_answer(
    exported: tuple[ResNet, onnx.ModelProto], seed: int, negative: float, zero: float, tiny: float
) -> None:
    network, model = exported
    generator = np.random.default_rng(seed)
    norms = stream_norms(network, model)
    for norm in norms:
        randomise(norm, generator, negative, zero, tiny)
    graph = with_weights(model, network)
    report = fold(graph)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)

    pixels = pixels_of(2, SMALL.crop)
    expected, found = in_float64(network, pixels), run(graph, pixels)
    assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()

    excused = sum(has_large_shift(norm) for norm in norms)
    assert len(report.left) == norms_left(graph) <= excused
    assert len(report.folded) + len(report.left) == len(norms)
    for reason in report.left.values():
        assert "have |b / a| beyond 1500 times" in reason


def has_large_shift(norm: nn.BatchNorm2d) -> bool:
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()  # type: ignore[union-attr]
    offset = norm.bias.double() - scale * norm.running_mean.double()  # type: ignore[operator]
    usual = norm.running_mean.double().abs() + norm.running_var.double().sqrt()  # type: ignore[union-attr]
    ratio = (offset / scale).abs()
    large = (scale != 0) & (ratio > LARGEST_SHIFT * usual) & (ratio <= CONSTANT * usual)
    assert ((ratio[large] > 1e3) & (ratio[large] < 1e6)).all()
    return bool(large.any())


def test_a_resnet_50_has_no_batch_normalization_left() -> None:
    spec = spec_for("resnet50-preact")
    network = build(spec, seed=0)
    randomise_batch_norms(network)
    graph = ir.from_proto(converted(ServedGraph(network.eval(), spec.preprocessing)))
    assert norms_left(graph) == 17
    assert str(fold(graph)).splitlines()[0] == "folded 17 of 17"
    assert norms_left(graph) == 0


def test_ordinary_gammas_become_plain_relus(exported: tuple[ResNet, onnx.ModelProto]) -> None:
    network, model = exported
    generator = np.random.default_rng(0)
    for norm in stream_norms(network, model):
        randomise(norm, generator, negative=0, zero=0, tiny=0)
    graph = with_weights(model, network)
    fold(graph)
    kinds = {node.op_type for node in graph.graph}
    assert "Relu" in kinds
    assert not kinds & {"BatchNormalization", "Max", "Min", "Clip"}


@pytest.mark.shared_data
def test_the_shipped_network_answers_alike_on_the_whole_test_set() -> None:
    """The post-activation one has nothing to fold; what it scores is tested over HTTP."""
    with np.load(SHARED_DATA / "cifar10" / "cifar10-test.npz") as arrays:
        pixels, labels = arrays["images"].transpose(0, 2, 3, 1), arrays["labels"]
    model = converted(open_source(choice_of("resnet20-preact"), untrained=False).graph)
    before, after = ir.from_proto(model), ir.from_proto(model)
    report = fold(after)
    assert len(report.folded) == 10
    assert not report.left
    unfolded, folded = run(before, np.ascontiguousarray(pixels)), run(after, np.ascontiguousarray(pixels))
    assert np.array_equal(unfolded.argmax(1), folded.argmax(1))
    assert (folded.argmax(1) == labels).sum() == 9098


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = build(SPECS["cifar-basic-a"], seed=0)
    generator = np.random.default_rng(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomise(module, generator, negative=0.1, zero=0.1, tiny=0)
    path = tmp_path_factory.mktemp("plain") / "in.onnx"
    onnx.save(converted(ServedGraph(network.eval(), SMALL)), path)
    return path


def test_a_file_is_folded_and_checked_by_one_command(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "inputs.npz", images=pixels_of(3, 32))
    arguments = ["fold", str(plain), str(tmp_path / "out.onnx"), "--inputs", str(tmp_path / "inputs.npz")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "folded 4 of 4" in said
    assert "checked on 4 outputs" in said
    assert f"out.onnx, {(tmp_path / 'out.onnx').stat().st_size / 1e3:.1f} KB" in said
    assert norms_left(ir.load(tmp_path / "out.onnx")) == 0
    assert main(["fold", str(tmp_path / "out.onnx"), str(tmp_path / "again.onnx")]) == 0
    assert "folded 0 of 0" in capsys.readouterr().out


def test_a_file_can_be_folded_for_int8(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fold", str(plain), str(tmp_path / "out.onnx"), "--precision", "int8"]) == 0
    assert "channels of the streams scaled by" in capsys.readouterr().out


def garbage(model: onnx.ModelProto, folder: Path) -> None:
    (folder / "in.onnx").write_bytes(b"\x00 no model \xff" * 99)


def empty(model: onnx.ModelProto, folder: Path) -> None:
    (folder / "in.onnx").write_bytes(b"")


def external_data_missing(model: onnx.ModelProto, folder: Path) -> None:
    onnx.save(model, folder / "in.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()


def dynamic_channels(model: onnx.ModelProto, folder: Path) -> None:
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", "c", 32, 32])
    first.input[0] = "x"
    keep = list(model.graph.node)[list(model.graph.node).index(first) :]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(keep)
    model.graph.input.append(value)
    onnx.save(model, folder / "in.onnx")


def shared_weights(model: onnx.ModelProto, folder: Path) -> None:
    """The two 3x3 convolutions of a block, of equal shape, with one tensor."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    convolutions[2].input[1] = convolutions[1].input[1]
    onnx.save(model, folder / "in.onnx")


def old_opset(model: onnx.ModelProto, folder: Path) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 9)], ir_version=8), folder / "in.onnx"
    )


BAD = {
    garbage: "no complete ONNX model",
    empty: "no complete ONNX model",
    external_data_missing: "weights.bin",
    dynamic_channels: "its channels, the second axis, have to be a number",
    shared_weights: "is shared by",
    old_opset: "its opset is 9, expected at least 11",
}


@pytest.mark.parametrize("spoil", BAD)
def test_bad_input_is_one_clear_line(
    spoil: Callable[[onnx.ModelProto, Path], None], plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(onnx.load(plain), tmp_path)
    (tmp_path / "out.onnx").write_bytes(b"what was there")
    assert main(["fold", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'in.onnx'}: ")
    assert BAD[spoil] in line
    assert (tmp_path / "out.onnx").read_bytes() == b"what was there"


def test_past_the_tolerance_nothing_is_written(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fold", str(plain), str(tmp_path / "out.onnx"), "--tolerance", "1e-12"]) == 2
    assert "accepted is 1e-12; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_a_report_names_what_was_left() -> None:
    report = FoldReport(into_convolutions=2, folded={"a": "relu"}, left={"b": "because"})
    assert str(report) == "folded 1 of 2, and 2 into the convolution before them\n  left b: because"
