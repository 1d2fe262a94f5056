"""Names, shapes and their errors."""

from __future__ import annotations

import pytest

from models.spec import (
    BlockKind,
    BlockOrdering,
    ModelSpec,
    Preprocessing,
    Shortcut,
    SpecError,
    Stem,
    named_variants,
    spec_for,
)


def test_every_depth_of_the_papers_has_both_orderings() -> None:
    depths = (20, 32, 44, 56, 110, 164, 1001, 18, 34, 50, 101, 152)
    assert set(named_variants()) == {f"resnet{depth}-{ordering}" for depth in depths for ordering in BlockOrdering}


@pytest.mark.parametrize(
    ("depth", "kind"), [(110, BlockKind.BASIC), (164, BlockKind.BOTTLENECK), (14, BlockKind.BASIC)]
)
def test_cifar_depths_choose_their_block(depth: int, kind: BlockKind) -> None:
    spec = spec_for(f"resnet{depth}-preact")
    assert spec.block is kind
    assert sum(spec.blocks_per_stage) * (2 if kind is BlockKind.BASIC else 3) + 2 == depth


@pytest.mark.parametrize("name", ["resnet21-preact", "resnet20", "resnet20-v2", "vgg16", "resnet2-preact", ""])
def test_an_impossible_variant_is_refused(name: str) -> None:
    with pytest.raises(SpecError):
        spec_for(name)


def test_an_imagenet_depth_with_the_wrong_block_is_refused() -> None:
    with pytest.raises(SpecError, match="50 \\(bottleneck\\)"):
        ModelSpec(
            BlockOrdering.PRE_ACTIVATION,
            Stem.IMAGENET,
            BlockKind.BASIC,
            50,
            Shortcut.PROJECTION,
            1000,
            spec_for("resnet50-preact").preprocessing,
        )


@pytest.mark.parametrize(("resize", "crop", "std"), [(16, 32, (1, 1, 1)), (32, 0, (1, 1, 1)), (32, 32, (1, 0, 1))])
def test_impossible_preprocessing_is_refused(resize: int, crop: int, std: tuple[float, float, float]) -> None:
    with pytest.raises(SpecError):
        Preprocessing(resize, crop, (0, 0, 0), std)


@pytest.mark.parametrize(
    ("mean", "std"), [((123.7, 116.3, 103.5), (0.2, 0.2, 0.2)), ((0.5, 0.5, 0.5), (58.4, 57.1, 57.4))]
)
def test_statistics_of_bytes_are_refused(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    with pytest.raises(SpecError, match="expected those of pixels from 0 to 1; divide by 255"):
        Preprocessing(32, 32, mean, std)
