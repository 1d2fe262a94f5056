"""Networks of other makers, from today's exporter and the older one, answer alike once folded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.batchnorm import _BatchNorm

from export.folding.fold import FoldReport, fold
from export.to_onnx import quiet_exporter
from tests.peers import peers

CLOSE = 1e-4  # of the largest output value
CLASSES = 10
each_exporter = pytest.mark.parametrize("opset", [None, 13, 17], ids=["dynamo", "legacy-13", "legacy-17"])
both_exporters = pytest.mark.parametrize("opset", [None, 13], ids=["dynamo", "legacy-13"])


def randomised(make: Callable[[], nn.Module]) -> nn.Module:
    """Ordinary statistics, but for every fifth gamma, which is negative, and every seventh, which is 0."""
    torch.manual_seed(0)
    network = make().eval()
    for norm in norms_of(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.weight.data.uniform_(0.3, 1.5)
        norm.weight.data[::5] *= -1
        norm.weight.data[::7] = 0
        norm.bias.data.normal_(0, 0.4)
        norm.running_mean.normal_(0, 0.4)
        norm.running_var.uniform_(0.5, 2)
    return network


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def example(size: Sequence[int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def exported(network: nn.Module, images: Tensor, opset: int | None) -> onnx.ModelProto:
    """By today's exporter, or for an opset by the one that wrote most ONNX files there are."""
    if opset is None:
        batch = {0: torch.export.Dim("batch")}
        with quiet_exporter():
            program = torch.onnx.export(network, (images,), dynamo=True, verbose=False, dynamic_shapes=(batch,))
        assert program is not None
        return program.model_proto
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images,),
            file,
            dynamo=False,
            opset_version=opset,
            do_constant_folding=True,
            training=torch.onnx.TrainingMode.PRESERVE,  # it would fold the easy BatchNormalizations itself
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
        )
    return onnx.load_from_string(file.getvalue())


def folded(network: nn.Module, opset: int | None, size: Sequence[int] = (32, 32)) -> FoldReport:
    """Export and fold; the result has to be valid, to compute the same, and to contain just what the report left."""
    images = example(size)
    graph = ir.from_proto(exported(network, images, opset))
    report = fold(graph)
    model = ir.to_proto(graph)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, images)
    with torch.inference_mode():
        expected = network.double()(images.double())
    for ours, theirs in zip(found, [expected] if isinstance(expected, Tensor) else expected, strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= CLOSE * theirs.abs().max().item()
    assert sorted(report.left) == sorted(node.name for node in graph.graph if node.op_type == "BatchNormalization")
    return report


def run(model: onnx.ModelProto, images: Tensor) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: images.numpy()}))


def assert_all_folded(report: FoldReport, network: nn.Module, stream: int, opset: int | None) -> None:
    """All `stream` of them that no convolution precedes, and with the older exporter the others as well."""
    assert not report.left
    assert len(report.folded) == stream
    assert report.into_convolutions == (0 if opset is None else len(norms_of(network)) - stream)


TIMM: dict[str, dict[str, Any]] = {
    "resnetv2_50": {},
    "resnetv2_50d": {"stem_type": "deep", "avg_down": True},
}


def timm_resnet(variant: str) -> nn.Module:
    peers()
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    made: nn.Module = ResNetV2(
        layers=[2, 1, 1, 1],
        channels=(16, 32, 48, 64),
        stem_chs=16,
        num_classes=CLASSES,
        norm_layer=BatchNormAct2d,
        conv_layer=create_conv2d,
        **TIMM[variant],
    )
    return made


@both_exporters
@pytest.mark.parametrize("variant", TIMM)
def test_timm_keeps_no_batch_normalization(variant: str, opset: int | None) -> None:
    network = randomised(partial(timm_resnet, variant))
    assert_all_folded(folded(network, opset, (64, 64)), network, stream=6, opset=opset)


class KerasBlock(nn.Module):
    """As in keras.applications: the stride in a stage's last block, where a pooling of one pixel is the shortcut."""

    def __init__(self, inputs: int, filters: int, stride: int, *, project: bool) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1.001e-5)
        self.preact = norm(inputs)
        self.shortcut = nn.Conv2d(inputs, 4 * filters, 1, stride) if project else nn.MaxPool2d(1, stride)
        self.projects = project
        self.residual = nn.Sequential(
            *(nn.Conv2d(inputs, filters, 1, bias=False), norm(filters), nn.ReLU(), nn.ZeroPad2d(1)),
            *(nn.Conv2d(filters, filters, 3, stride, bias=False), norm(filters), nn.ReLU()),
            nn.Conv2d(filters, 4 * filters, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.preact(x))
        shortcut: Tensor = self.shortcut(activated if self.projects else x)
        return shortcut + self.residual(activated)


def keras_resnet() -> nn.Module:
    return nn.Sequential(
        *(nn.ZeroPad2d(3), nn.Conv2d(3, 16, 7, 2), nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)),
        *(KerasBlock(16, 8, 1, project=True), KerasBlock(32, 8, 1, project=False), KerasBlock(32, 8, 2, project=False)),
        *(KerasBlock(32, 12, 1, project=True), KerasBlock(48, 12, 1, project=False)),
        *(nn.BatchNorm2d(48, eps=1.001e-5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES)),
    )


@each_exporter
def test_keras_resnet50v2_keeps_no_batch_normalization(opset: int | None) -> None:
    network = randomised(keras_resnet)
    assert_all_folded(folded(network, opset, (64, 64)), network, stream=6, opset=opset)


class MXNetUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        conv, norm = partial(nn.Conv2d, bias=False), partial(nn.BatchNorm2d, eps=2e-5)
        inner = outputs // 4 if bottleneck else outputs
        first = conv(inputs, inner, 1) if bottleneck else conv(inputs, inner, 3, stride, 1)
        middle = [conv(inner, inner, 3, stride, 1), norm(inner), nn.ReLU()] if bottleneck else []
        last = conv(inner, outputs, 1) if bottleneck else conv(inner, outputs, 3, 1, 1)
        self.bn1 = norm(inputs)
        self.residual = nn.Sequential(first, norm(inner), nn.ReLU(), *middle, last)
        self.projection = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        shortcut: Tensor = x if self.projection is None else self.projection(activated)
        return shortcut + self.residual(activated)


def mxnet_resnet(*, bottleneck: bool) -> nn.Module:
    """Its first BatchNorm normalises the data."""
    unit, norm = partial(MXNetUnit, bottleneck=bottleneck), partial(nn.BatchNorm2d, eps=2e-5)
    return nn.Sequential(
        *(norm(3), nn.Conv2d(3, 16, 7, 2, 3, bias=False), norm(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(unit(16, 32, 1), unit(32, 32, 1), unit(32, 48, 2), unit(48, 48, 1)),
        *(norm(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES)),
    )


@each_exporter
def test_mxnet_keeps_the_batch_normalization_of_its_input(opset: int | None) -> None:
    report = folded(randomised(partial(mxnet_resnet, bottleneck=True)), opset, (64, 64))
    (reason,) = report.left.values()
    assert "(Conv), and not by one Relu alone" in reason
    assert len(report.folded) == 5


@both_exporters
def test_mxnet_with_3x3_units_keeps_the_one_behind_its_stem_too(opset: int | None) -> None:
    """The stream begins at a pooled ReLU, which no convolution's bias can shift."""
    report = folded(randomised(partial(mxnet_resnet, bottleneck=False)), opset, (64, 64))
    of_the_input, of_the_first_unit = report.left.values()
    assert "(Conv), and not by one Relu alone" in of_the_input
    assert "not shifted as it needs" in of_the_first_unit
    assert len(report.folded) == 4


class TwoUnits(nn.Module):
    """A stream of 16 channels with two pre-activation units on it; others wire the same layers differently."""

    def __init__(self, conv: type[nn.Module] = nn.Conv2d, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, padding=1)
        self.norm1, self.norm2, self.norm3 = norm(16), norm(16), norm(16)
        self.conv1, self.conv2 = conv(16, 16, 3, padding=1), conv(16, 16, 3, padding=1)
        self.head = conv(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.stem(x)
        x = x + self.unit1(x)
        x = x + self.unit2(x)
        return self.last(x)

    def unit1(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv1(F.relu(self.norm1(x)))
        return residual

    def unit2(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(F.relu(self.norm2(x)))
        return residual

    def last(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.norm3(x)))
        return logits


class ProjectedStream(TwoUnits):
    """A projection that reads the stream itself, before BatchNorm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.projection(x) + self.unit1(x)
        x = x + self.unit2(x)
        return self.last(x)


class ActivatedShortcut(TwoUnits):
    """He et al. 2016: the first unit's activated input is its shortcut as well."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.unit1(x)
        activated = F.relu(self.norm2(x))
        x = activated + self.conv2(activated)
        return self.last(x)


class Sigmoid(TwoUnits):
    def unit2(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(torch.sigmoid(self.norm2(x)))
        return residual


class Leaky(TwoUnits):
    def unit1(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv1(F.leaky_relu(self.norm1(x)))
        return residual


class SqueezeExcitation(TwoUnits):
    """The second residual branch ends in a product."""

    def unit2(self, x: Tensor) -> Tensor:
        residual = super().unit2(x)
        return residual * torch.sigmoid(F.adaptive_avg_pool2d(residual, 1))


class StreamIsAnOutput(TwoUnits):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        middle = x + self.unit1(x)
        x = middle + self.unit2(middle)
        return self.last(x), middle


class Concatenated(TwoUnits):
    """DenseNet without bottlenecks; its transition has no padding, and folds."""

    def __init__(self) -> None:
        super().__init__()
        self.norm2, self.conv2 = nn.BatchNorm2d(32), nn.Conv2d(32, 16, 3, padding=1)
        self.norm3, self.head = nn.BatchNorm2d(48), nn.Conv2d(48, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.unit1(x)], 1)
        x = torch.cat([x, self.unit2(x)], 1)
        return self.last(x)


class MaximumBehind(TwoUnits):
    def last(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.max_pool2d(F.relu(self.norm3(x)), 2))
        return logits


class Enlarged(TwoUnits):
    def last(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.interpolate(F.relu(self.norm3(x)), scale_factor=2))
        return logits


UNSHIFTED = "not shifted as it needs"
OTHER_ACTIVATION = "and not by one Relu alone"
LEFT: dict[type[TwoUnits], dict[str, str]] = {
    TwoUnits: {},
    ProjectedStream: {},
    ActivatedShortcut: {"norm2": "(Add) reads the activation"},
    Sigmoid: {"norm2": f"(Sigmoid), {OTHER_ACTIVATION}"},
    Leaky: {"norm1": f"(LeakyRelu), {OTHER_ACTIVATION}"},
    SqueezeExcitation: {"norm3": UNSHIFTED},
    StreamIsAnOutput: {"norm2": UNSHIFTED},
    Concatenated: {"norm1": UNSHIFTED, "norm2": UNSHIFTED},
    MaximumBehind: {"norm3": "of its gammas are negative, and a MaxPool follows"},
    Enlarged: {"norm3": "(Resize) reads the activation"},
}


@pytest.mark.parametrize("make", LEFT)
def test_what_does_not_fit_is_left_and_named(make: type[TwoUnits]) -> None:
    report = folded(randomised(make), opset=13)
    expected = {f"/{norm}/BatchNormalization": reason for norm, reason in LEFT[make].items()}
    assert set(report.left) == expected.keys()
    assert len(report.folded) == 3 - len(expected)
    for name, reason in report.left.items():
        assert expected[name] in reason


class Classifier(TwoUnits):
    def __init__(self, flat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head = nn.Linear(16, CLASSES)
        self.flat = flat

    def last(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.flat(F.relu(self.norm3(x))))
        return logits


def flatten(x: Tensor) -> Tensor:
    return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def view_of_16(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).view(-1, 16)


def view_by_size(x: Tensor) -> Tensor:
    x = F.adaptive_avg_pool2d(x, 1)
    return x.view(x.size(0), -1)


@pytest.mark.parametrize(
    ("flat", "opset"),
    [
        *((flat, None) for flat in (flatten, mean, view_of_16, view_by_size)),
        *((flatten, 18), (mean, 17)),
        (mean, 18),
        (view_of_16, 17),
        (view_by_size, 17),
    ],
)
def test_a_classifier_takes_the_last_scale_however_it_is_reached(
    flat: Callable[[Tensor], Tensor], opset: int | None
) -> None:
    report = folded(randomised(partial(Classifier, flat)), opset)
    assert not report.left
    assert len(report.folded) == 3


def test_tensors_of_equal_content_do_not_hinder() -> None:
    torch.manual_seed(0)
    network = TwoUnits().eval()
    for convolution in (network.conv1, network.conv2):
        nn.init.zeros_(convolution.bias)
    report = folded(network, opset=13)
    assert len(report.folded) == 3


class ParameterFree(TwoUnits):
    """The shortcut of CIFAR's option A: every other pixel, and zeros for new channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(16, 32, 3, 2, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, padding=1)
        self.norm3, self.head = nn.BatchNorm2d(32), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)) + self.unit1(x)
        x = x + self.unit2(x)
        return self.last(x)


@pytest.mark.parametrize("opset", [None, 13], ids=["dynamo", "legacy-13"])
def test_zero_padded_channels_are_no_obstacle(opset: int | None) -> None:
    report = folded(randomised(ParameterFree), opset)
    assert len(report.folded) == 3


class FirstChannels(TwoUnits):
    """The first unit reads half of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, padding=1)

    def unit1(self, x: Tensor) -> Tensor:
        return super().unit1(x[:, :8])


class SpatialTerm(TwoUnits):
    """The second unit adds one value a pixel to all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(16, 1, 3, padding=1)


class Series(TwoUnits):
    def __init__(self) -> None:
        super().__init__(nn.Conv1d, nn.BatchNorm1d)


class Volume(TwoUnits):
    def __init__(self) -> None:
        super().__init__(nn.Conv3d, nn.BatchNorm3d)


class RowsOfPixels(TwoUnits):
    """The head reads each channel's pixels by themselves, as a gated MLP mixes them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 8, 4)

    def last(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.head(F.relu(self.norm3(x)).reshape(-1, 8 * 8))
        return mixed


@pytest.mark.parametrize(
    ("make", "size", "opset"),
    [
        (FirstChannels, (32, 32), None),
        *((SpatialTerm, (32, 32), opset) for opset in (None, 13)),
        (RowsOfPixels, (8, 8), None),
        *((Series, (32,), opset) for opset in (None, 13)),
        *((Volume, (8, 8, 8), opset) for opset in (None, 13)),
    ],
)
def test_other_shapes_change_no_answer(make: type[TwoUnits], size: tuple[int, ...], opset: int | None) -> None:
    report = folded(randomised(make), opset, size)
    assert len(report.folded) + len(report.left) == 3
