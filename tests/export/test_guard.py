"""A low precision loses little by folding, whatever gammas training has left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from export.artifact import Precision
from export.folding.fold import FoldReport, fold
from export.graph_session import cpu_options
from export.images import from_photographs
from export.quantize import calibrate, quantize
from export.source import open_source
from export.to_fp16 import to_fp16
from export.to_onnx import INPUT, ServedGraph
from models.choice import choice_of
from models.data import normalised
from models.resnet import ResNet, build
from models.spec import BlockKind, Shortcut, Stem
from tests.conversions import converted
from tests.export.test_fold import SMALL, in_float64, pixels_of, run, small


@pytest.fixture(scope="module")
def images(photographs) -> np.ndarray:
    pixels, _ = from_photographs(photographs, SMALL)
    return pixels[::3]


def stream_norms(network: ResNet) -> list[nn.BatchNorm2d]:
    found = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return [module for name, module in found.items() if name == "norm" or name.endswith("bn1")]


def spoiled(change: Callable[[nn.BatchNorm2d, torch.Generator], None], images: np.ndarray) -> ServedGraph:
    """The shipped network with some gammas changed, and with the statistics that it then has."""
    graph = open_source(choice_of("resnet20-preact"), untrained=False).graph
    generator = torch.Generator().manual_seed(0)
    for norm in stream_norms(graph.network):
        change(norm, generator)
    for module in graph.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.inference_mode():
        graph.network.train()(normalised(torch.from_numpy(images).permute(0, 3, 1, 2), graph.preprocessing))
    graph.eval()
    return graph


def small_gammas(share: float, factor: float) -> Callable[[nn.BatchNorm2d, torch.Generator], None]:
    """Some channels with so small a gamma and so large a beta that |b / a| goes into the hundreds."""

    def change(norm: nn.BatchNorm2d, generator: torch.Generator) -> None:
        chosen = torch.randperm(norm.num_features, generator=generator)[: max(1, int(norm.num_features * share))]
        norm.weight.data[chosen] *= factor
        norm.bias.data[chosen] = norm.bias.data[chosen].abs() + 0.5 * torch.rand(len(chosen), generator=generator)

    return change


def int8_of(model: onnx.ModelProto, precision: Precision, images: np.ndarray) -> tuple[onnx.ModelProto, FoldReport]:
    """int8, folded as for `precision`."""
    graph = ir.from_proto(model)
    report = fold(graph, precision)
    floats = ir.to_proto(graph)
    return quantize(floats, calibrate(floats, [images])), report


def agreement(model: onnx.ModelProto, graph: ServedGraph, images: np.ndarray) -> float:
    """How often int8 answers what float32 answers."""
    options = cpu_options()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = graph(torch.from_numpy(images)).argmax(1).numpy()
    return float((session.run(None, {INPUT: images})[0].argmax(1) == expected).mean())


@pytest.mark.parametrize("factor", [0.004, 0.02])
def test_small_gammas_do_not_ruin_int8(factor: float, images: np.ndarray) -> None:
    graph = spoiled(small_gammas(0.06, factor), images)
    model = converted(graph)
    unfolded = agreement(quantize(model, calibrate(model, [images])), graph, images)
    careless, _ = int8_of(model, Precision.FP32, images)
    careful, report = int8_of(model, Precision.INT8, images)
    assert agreement(careless, graph, images) < unfolded / 2
    assert agreement(careful, graph, images) > unfolded - 0.1  # many of these tiles are flat, and the margins small
    assert len(report.folded) + len(report.left) == 10


def test_channels_that_int8_sees_as_constant_become_so(images: np.ndarray) -> None:
    graph = spoiled(small_gammas(0.03, 0.004), images)
    _, report = int8_of(converted(graph), Precision.INT8, images)
    assert any("with a constant" in into for into in report.folded.values())
    assert "with a constant" in str(report)


def test_what_would_cost_others_too_much_is_left_with_its_reason(images: np.ndarray) -> None:
    graph = spoiled(small_gammas(0.06, 0.02), images)
    _, report = int8_of(converted(graph), Precision.INT8, images)
    assert report.left
    for reason in report.left.values():
        assert "shifted by |b / a| of up to" in reason
        assert "accepted are 8" in reason


def test_fp16_keeps_more_than_int8_and_less_than_fp32(images: np.ndarray) -> None:
    graph = spoiled(small_gammas(0.06, 0.02), images)
    left = {}
    for precision in Precision:
        model = ir.from_proto(converted(graph))
        left[precision] = len(fold(model, precision).left)
        assert np.abs(run(model, images[:8]) - in_float64_of(graph, images[:8])).max() < 0.1
    assert left[Precision.FP32] == 0
    assert left[Precision.FP16] <= left[Precision.INT8]


@pytest.mark.parametrize("factor", [0.02, 0.004])
def test_small_gammas_cost_fp16_no_more_folded_than_unfolded(factor: float, images: np.ndarray) -> None:
    """Where a ReLU needs a bound, Max and Min are float16 as well."""
    graph = spoiled(small_gammas(0.06, factor), images)
    model = converted(graph)
    expected = logits(model, images)

    def error(lowered: onnx.ModelProto) -> float:
        return float(np.abs(logits(to_fp16(lowered), images) - expected).max() / np.abs(expected).max())

    careless, careful = (ir.from_proto(model) for _ in range(2))
    fold(careless, Precision.FP32)
    fold(careful, Precision.FP16)
    unfolded = error(model)
    assert error(ir.to_proto(careless)) > 4 * unfolded
    assert error(ir.to_proto(careful)) < 1.5 * unfolded


def logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), cpu_options(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: images})[0])


def in_float64_of(graph: ServedGraph, pixels: np.ndarray) -> np.ndarray:
    network = graph.network
    with torch.inference_mode():
        pixels_in_order = normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2), graph.preprocessing)
        logits = network.double()(pixels_in_order.double()).numpy()
    network.float()
    return np.asarray(logits)


@pytest.mark.parametrize("shortcut", list(Shortcut))
@pytest.mark.parametrize("stem", list(Stem))
def test_a_gauge_alone_changes_no_answer(stem: Stem, shortcut: Shortcut) -> None:
    depth = {Stem.CIFAR: 8, Stem.IMAGENET: 18}[stem]
    spec = small(stem, BlockKind.BASIC, depth, shortcut)
    network = build(spec, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.3, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.4, generator=generator)
        norm.running_mean.normal_(0, 0.4, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    graph = ir.from_proto(converted(ServedGraph(network, SMALL)))
    report = fold(graph, Precision.INT8)
    assert report.gauge is not None
    assert report.gauge[0] < report.gauge[1]
    pixels = pixels_of(2, SMALL.crop)
    expected = in_float64(network, pixels)
    assert np.abs(run(graph, pixels) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_channel_whose_gammas_are_all_negative_needs_no_clip(images: np.ndarray) -> None:
    def negate(norm: nn.BatchNorm2d, generator: torch.Generator) -> None:
        if norm.num_features == 64:
            norm.weight.data[:16] *= -1  # which option A adds in this stage; earlier ones are read before as well

    model = converted(spoiled(negate, images))
    for precision in Precision:
        graph = ir.from_proto(model)
        folded = fold(graph, precision).folded
        assert len(folded) == 10
        assert not [into for into in folded.values() if "an upper bound" in into]
