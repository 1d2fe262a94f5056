"""What `export.bench` compares: networks of both orderings as graphs, and the runtimes that run them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from export.artifact import Precision
from export.folding.fold import FoldReport, fold
from export.graph_session import cpu_options
from export.images import bundled_photographs, from_photographs, random_pixels
from export.quantize import MadeFor, calibrate, quantize
from export.to_onnx import INPUT, ServedGraph, to_onnx
from models.data import normalised
from models.resnet import ResNet, build
from models.spec import BlockOrdering, Preprocessing, spec_for

Run = Callable[[NDArray[np.uint8]], object]
STATISTICS_IMAGES = 16  # that BatchNormalization and int8 ranges are taken from


class Runtime(StrEnum):
    ONNXRUNTIME = "ONNX Runtime"
    OPENVINO = "OpenVINO"


class Lane(StrEnum):
    """A graph of one depth and precision; the last is the first one again, to show what the machine cannot tell."""

    POST = "post"
    PRE = "pre"
    PRE_FOLDED = "pre folded"
    POST_AGAIN = "post again"


class LaneError(RuntimeError):
    """A runtime cannot open a graph."""


def runtimes() -> list[Runtime]:
    installed = importlib.util.find_spec("openvino") is not None
    return [Runtime.ONNXRUNTIME, *([Runtime.OPENVINO] if installed else [])]


@dataclass(frozen=True)
class Graphs:
    """All graphs of one depth, and what the folds for either precision reported."""

    models: dict[tuple[Precision, MadeFor], dict[Lane, bytes]]
    folded: dict[Precision, FoldReport]

    @property
    def difference(self) -> float:
        """The largest that folding makes to a logit in float32, as a share of the largest logit."""
        lanes = self.models[Precision.FP32, MadeFor.PORTABLE]
        before, after = (logits(lanes[lane]) for lane in (Lane.PRE, Lane.PRE_FOLDED))
        return float(np.abs(after - before).max() / np.abs(before).max())


def graphs_of(depth: int) -> Graphs:
    """Random weights: dense arithmetic takes the same time on any ordinary numbers. Statistics are of real images."""
    exported, images = {}, np.empty(0, np.uint8)
    for ordering in BlockOrdering:
        spec = spec_for(f"resnet{depth}-{ordering}")
        images = images_for(spec.preprocessing)
        network = build(spec, seed=0)
        give_statistics(network, images, spec.preprocessing)
        exported[ordering] = to_onnx(ServedGraph(network.eval(), spec.preprocessing))
    post, pre = (exported[ordering] for ordering in BlockOrdering)
    for_fp32, for_int8 = (folded(pre, precision) for precision in (Precision.FP32, Precision.INT8))
    found = {(Precision.FP32, MadeFor.PORTABLE): lanes(post, pre, for_fp32[0])}
    floats = post, pre, for_int8[0]
    ranges = [calibrate(model, [images]) for model in floats]
    for made_for in (MadeFor.ONNXRUNTIME, MadeFor.PORTABLE):
        quantized = (quantize(model, each, made_for) for model, each in zip(floats, ranges, strict=True))
        found[Precision.INT8, made_for] = lanes(*quantized)
    return Graphs(found, {Precision.FP32: for_fp32[1], Precision.INT8: for_int8[1]})


def lanes(post: onnx.ModelProto, pre: onnx.ModelProto, pre_folded: onnx.ModelProto) -> dict[Lane, bytes]:
    first, second, third = (model.SerializeToString() for model in (post, pre, pre_folded))
    return {Lane.POST: first, Lane.PRE: second, Lane.PRE_FOLDED: third, Lane.POST_AGAIN: first}


def folded(model: onnx.ModelProto, precision: Precision) -> tuple[onnx.ModelProto, FoldReport]:
    graph = ir.from_proto(model)
    report = fold(graph, precision)
    return ir.to_proto(graph), report


def logits(model: bytes) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    shape = [STATISTICS_IMAGES, *session.get_inputs()[0].shape[1:]]
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return np.asarray(session.run(None, {INPUT: pixels})[0])


def images_for(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    photographs = bundled_photographs()
    if photographs is None:
        return random_pixels(preprocessing, STATISTICS_IMAGES)
    pixels, _ = from_photographs(photographs, preprocessing)
    return pixels[:: max(1, len(pixels) // STATISTICS_IMAGES)][:STATISTICS_IMAGES]


def give_statistics(network: ResNet, images: NDArray[np.uint8], preprocessing: Preprocessing) -> None:
    """Gammas and betas as trained networks have them, no two normalisations alike, and statistics that fit."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.7, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.momentum = 1.0  # the last batch's own
    with torch.inference_mode():
        network.train()(normalised(torch.from_numpy(images).permute(0, 3, 1, 2), preprocessing))


def open_lane(runtime: Runtime, model: bytes, threads: int) -> Run:
    if runtime is Runtime.OPENVINO:
        return openvino_lane(model, threads)
    session = onnxruntime.InferenceSession(model, cpu_options(threads), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {INPUT: pixels})


def openvino_lane(model: bytes, threads: int) -> Run:
    import openvino  # noqa: PLC0415  an outside reference, where it is installed

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    try:
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    except RuntimeError as error:
        reason = [line for line in str(error).splitlines() if line.strip()]
        raise LaneError(f"OpenVINO {openvino.__version__} cannot open a graph: {reason[-1]}") from error
    return lambda pixels: request.infer({INPUT: pixels})
