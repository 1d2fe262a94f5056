"""The torch-free description of a network: block ordering, shape, preprocessing, and the named variants."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum


class BlockOrdering(StrEnum):
    """Where batch normalisation and ReLU stand in a residual block (He et al. 2016, "Identity Mappings", figure 4)."""

    POST_ACTIVATION = "postact"
    PRE_ACTIVATION = "preact"


class BlockKind(StrEnum):
    """Two 3x3 convolutions, or 1x1-3x3-1x1 with a fourfold expansion (He et al. 2015, figure 5)."""

    BASIC = "basic"
    BOTTLENECK = "bottleneck"


class Stem(StrEnum):
    """CIFAR: one 3x3 convolution and three stages. ImageNet: 7x7 stride 2, max pooling and four stages."""

    CIFAR = "cifar"
    IMAGENET = "imagenet"


class Shortcut(StrEnum):
    """How a shortcut changes shape (He et al. 2015, section 3.3): A subsamples and zero-pads, B projects by 1x1."""

    OPTION_A = "option-a"
    PROJECTION = "projection"


class Interpolation(StrEnum):
    """Resampling filter of the resize, by Pillow's name."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class SpecError(ValueError):
    """A network or its preprocessing was described in a way that cannot be built."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a decoded RGB photograph to the network's input.

    The shorter side is resized to `resize` pixels, the centre `crop` x `crop` is cut out, and the graph itself maps
    uint8 pixels to `(pixel / 255 - mean) / std` per RGB channel.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = Interpolation.BILINEAR

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise SpecError(f"crop is {self.crop}, resize {self.resize}: expected 0 < crop <= resize")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise SpecError(f"mean {self.mean} and std {self.std} need one value for each of R, G, B")
        if min(self.std) <= 0:
            raise SpecError(f"std is {self.std}: every value must be positive")
        if max(*self.mean, *self.std) > 1:
            raise SpecError(f"mean is {self.mean}, std {self.std}: expected those of pixels from 0 to 1; divide by 255")


CIFAR_PREPROCESSING = Preprocessing(32, 32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
IMAGENET_PREPROCESSING = Preprocessing(256, 224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

IMAGENET_BLOCKS = {
    18: (BlockKind.BASIC, (2, 2, 2, 2)),
    34: (BlockKind.BASIC, (3, 4, 6, 3)),
    50: (BlockKind.BOTTLENECK, (3, 4, 6, 3)),
    101: (BlockKind.BOTTLENECK, (3, 4, 23, 3)),
    152: (BlockKind.BOTTLENECK, (3, 8, 36, 3)),
}
CIFAR_BOTTLENECK_DEPTHS = (164, 1001)
CIFAR_DEPTHS = (20, 32, 44, 56, 110, *CIFAR_BOTTLENECK_DEPTHS)
STAGE_CHANNELS = {Stem.CIFAR: (16, 32, 64), Stem.IMAGENET: (64, 128, 256, 512)}
EXPANSION = {BlockKind.BASIC: 1, BlockKind.BOTTLENECK: 4}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One network's shape. Depth counts weighted layers, as the papers do.

    CIFAR depths are 6n+2 with n basic blocks a stage (He et al. 2015, section 4.2), or 9n+2 with n bottlenecks, as
    the 164 and 1001 layers of He et al. 2016 are.
    """

    ordering: BlockOrdering
    stem: Stem
    block: BlockKind
    depth: int
    shortcut: Shortcut
    num_classes: int
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise SpecError(f"num_classes is {self.num_classes}: expected at least 1")
        _ = self.blocks_per_stage

    @property
    def variant(self) -> str:
        """The name users type, such as `resnet20-preact`."""
        return f"resnet{self.depth}-{self.ordering}"

    @property
    def blocks_per_stage(self) -> tuple[int, ...]:
        if self.stem is Stem.IMAGENET:
            kind, blocks = IMAGENET_BLOCKS.get(self.depth, (None, ()))
            if kind is not self.block:
                known = ", ".join(f"{depth} ({kind})" for depth, (kind, _) in IMAGENET_BLOCKS.items())
                raise SpecError(f"no {self.block} ImageNet ResNet has depth {self.depth}; known: {known}")
            return blocks
        layers_per_n = 6 if self.block is BlockKind.BASIC else 9
        n, rest = divmod(self.depth - 2, layers_per_n)
        if rest or n < 1:
            raise SpecError(f"a {self.block} CIFAR ResNet has depth {layers_per_n}n+2, not {self.depth}")
        return (n, n, n)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels inside each stage's blocks, before a bottleneck's expansion."""
        return STAGE_CHANNELS[self.stem]


def cifar_spec(ordering: BlockOrdering, depth: int) -> ModelSpec:
    """A CIFAR-10 network; bottlenecks at the paper's 164 and 1001 layers, basic blocks at every other 6n+2."""
    block = BlockKind.BOTTLENECK if depth in CIFAR_BOTTLENECK_DEPTHS else BlockKind.BASIC
    return ModelSpec(ordering, Stem.CIFAR, block, depth, Shortcut.OPTION_A, 10, CIFAR_PREPROCESSING)


def imagenet_spec(ordering: BlockOrdering, depth: int) -> ModelSpec:
    kind, _ = IMAGENET_BLOCKS[depth]
    return ModelSpec(ordering, Stem.IMAGENET, kind, depth, Shortcut.PROJECTION, 1000, IMAGENET_PREPROCESSING)


def named_variants() -> dict[str, ModelSpec]:
    """Every variant that has a name, in order of depth."""
    specs = [cifar_spec(ordering, depth) for depth in CIFAR_DEPTHS for ordering in BlockOrdering]
    specs += [imagenet_spec(ordering, depth) for depth in IMAGENET_BLOCKS for ordering in BlockOrdering]
    return {spec.variant: spec for spec in specs}


def spec_for(variant: str, *, num_classes: int | None = None, shortcut: Shortcut | None = None) -> ModelSpec:
    """The spec of a named variant, or of any further CIFAR depth 6n+2 such as `resnet14-preact`.

    Raises:
        SpecError: the name is unknown.
    """
    spec = named_variants().get(variant)
    if spec is None:
        match = re.fullmatch(r"resnet(\d{1,4})-(\w+)", variant)
        if match is None or match[2] not in list(BlockOrdering):
            known = ", ".join(named_variants())
            raise SpecError(f"unknown variant {variant!r}; known: {known}, and resnet(6n+2)-postact|preact")
        spec = cifar_spec(BlockOrdering(match[2]), int(match[1]))
    return replace(
        spec,
        num_classes=num_classes if num_classes is not None else spec.num_classes,
        shortcut=shortcut or spec.shortcut,
    )
