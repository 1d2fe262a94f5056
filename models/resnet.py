"""Post- and pre-activation ResNets side by side, for CIFAR and ImageNet.

The orderings differ in their block classes alone. Another placement of He et al. 2016 (figure 4) is one more class that
says what its block computes and whether the stem and the head are activated, entered in `BLOCKS`.

Module names are torchvision's (`conv1`, `layer1.0.bn2`, `layer2.0.downsample.0`, `fc`), and `norm` before the head.

In pre-activation networks every identity and option-A shortcut reads the raw stream, the first block's included, and
only projections read the activated one; docs/decisions.md says how that differs from the paper's first unit.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn, relu
from torch.nn.functional import pad

from models.spec import EXPANSION, BlockKind, BlockOrdering, ModelSpec, Shortcut, Stem


class Block(nn.Module):
    """A residual unit `x_{l+1} = shortcut(x_l) + F(x_l)`: [N, in, H, W] -> [N, channels * expansion, H', W']."""

    activates_stem: ClassVar[bool]  # BN and ReLU follow the first convolution
    activates_head: ClassVar[bool]  # BN and ReLU follow the last addition

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:  # noqa: ARG002
        super().__init__()


class PostActBasicBlock(Block):
    """conv-BN-ReLU-conv-BN, ReLU after the addition (He et al. 2015, "Deep Residual Learning", figure 5 left)."""

    activates_stem = True
    activates_head = False

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__(in_channels, channels, stride, shortcut)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = change_shape(in_channels, channels, stride, shortcut, normalise=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        shortcut: Tensor = self.downsample(x)
        return relu(shortcut + residual)


class PreActBasicBlock(Block):
    """BN-ReLU-conv-BN-ReLU-conv, nothing after the addition (He et al. 2016, "Identity Mappings", figure 4e)."""

    activates_stem = False
    activates_head = True

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__(in_channels, channels, stride, shortcut)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.downsample = change_shape(in_channels, channels, stride, shortcut, normalise=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        residual: Tensor = self.conv1(activated)
        residual = self.conv2(relu(self.bn2(residual)))
        shortcut: Tensor = self.downsample(activated if projects(self.downsample) else x)
        return shortcut + residual


class PostActBottleneck(Block):
    """1x1-3x3-1x1, each conv-BN, ReLU between and after the addition (He et al. 2015, figure 5 right).

    The stride is on the 3x3 convolution, as in torchvision and timm.
    """

    activates_stem = True
    activates_head = False

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__(in_channels, channels, stride, shortcut)
        out_channels = channels * EXPANSION[BlockKind.BOTTLENECK]
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = change_shape(in_channels, out_channels, stride, shortcut, normalise=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.bn1(self.conv1(x)))
        residual = relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut: Tensor = self.downsample(x)
        return relu(shortcut + residual)


class PreActBottleneck(Block):
    """1x1-3x3-1x1, each BN-ReLU-conv, nothing after the addition (He et al. 2016, section 4.1 and figure 4e)."""

    activates_stem = False
    activates_head = True

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__(in_channels, channels, stride, shortcut)
        out_channels = channels * EXPANSION[BlockKind.BOTTLENECK]
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.downsample = change_shape(in_channels, out_channels, stride, shortcut, normalise=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        residual: Tensor = self.conv1(activated)
        residual = self.conv2(relu(self.bn2(residual)))
        residual = self.conv3(relu(self.bn3(residual)))
        shortcut: Tensor = self.downsample(activated if projects(self.downsample) else x)
        return shortcut + residual


BLOCKS: dict[tuple[BlockOrdering, BlockKind], type[Block]] = {
    (BlockOrdering.POST_ACTIVATION, BlockKind.BASIC): PostActBasicBlock,
    (BlockOrdering.POST_ACTIVATION, BlockKind.BOTTLENECK): PostActBottleneck,
    (BlockOrdering.PRE_ACTIVATION, BlockKind.BASIC): PreActBasicBlock,
    (BlockOrdering.PRE_ACTIVATION, BlockKind.BOTTLENECK): PreActBottleneck,
}


class OptionA(nn.Module):
    """Parameter-free: subsample by `stride`, zero-pad channels (He et al. 2015, section 3.3), half on each side."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class ResNet(nn.Module):
    """Normalised images [N, 3, H, W] -> logits [N, num_classes], both float32."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        block = BLOCKS[spec.ordering, spec.block]
        expansion = EXPANSION[spec.block]
        channels = spec.stage_channels[0]

        self.conv1 = conv3x3(3, channels) if spec.stem is Stem.CIFAR else conv7x7(3, channels, stride=2)
        self.bn1 = nn.BatchNorm2d(channels) if block.activates_stem else None
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if spec.stem is Stem.IMAGENET else nn.Identity()

        self.stage_names = []
        for stage, (blocks, width) in enumerate(zip(spec.blocks_per_stage, spec.stage_channels, strict=True), start=1):
            strides = [1 if stage == 1 else 2] + [1] * (blocks - 1)
            layers = []
            for stride in strides:
                layers.append(block(channels, width, stride, spec.shortcut))
                channels = width * expansion
            self.stage_names.append(f"layer{stage}")
            self.add_module(self.stage_names[-1], nn.Sequential(*layers))

        self.norm = nn.BatchNorm2d(channels) if block.activates_head else None
        self.fc = nn.Linear(channels, spec.num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.bn1 is not None:
            x = relu(self.bn1(x))
        x = self.maxpool(x)
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        if self.norm is not None:
            x = relu(self.norm(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def build(spec: ModelSpec, seed: int | None = None) -> ResNet:
    """A freshly initialised network; the same seed gives the same weights, leaving the global generator alone."""
    if seed is None:
        return ResNet(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(spec)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv7x7(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 7, stride, padding=3, bias=False)


def change_shape(in_channels: int, out_channels: int, stride: int, shortcut: Shortcut, *, normalise: bool) -> nn.Module:
    """The shortcut: the identity wherever the shape stays, and after a projection BN if `normalise`."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if shortcut is Shortcut.OPTION_A:
        return OptionA(in_channels, out_channels, stride)
    projection = conv1x1(in_channels, out_channels, stride)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels)) if normalise else nn.Sequential(projection)


def projects(shortcut: nn.Module) -> bool:
    return isinstance(shortcut, nn.Sequential)


def initialise(network: nn.Module) -> None:
    """He et al. 2015, "Delving Deep into Rectifiers", section 2.2, with the fan of the output."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
