"""Both block orderings compute what the papers say."""

from __future__ import annotations

import pytest
import torch
from torch import nn, relu

from models.resnet import BLOCKS, OptionA, PreActBasicBlock, PreActBottleneck, ResNet, build
from models.spec import BlockKind, BlockOrdering, Shortcut, Stem, named_variants, spec_for

ORDERINGS = list(BlockOrdering)


def randomise_batch_norms(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                assert tensor is not None
                tensor.data.normal_(generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2, generator=generator)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# He et al. 2015, table 6 (millions); He et al. 2016, table 4 for 164 and 1001.
PAPER_PARAMETERS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 164: 1.7, 1001: 10.2}


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("depth", PAPER_PARAMETERS)
def test_cifar_networks_have_the_papers_number_of_parameters(depth: int, ordering: BlockOrdering) -> None:
    with torch.device("meta"):
        network = ResNet(spec_for(f"resnet{depth}-{ordering}"))
    paper = PAPER_PARAMETERS[depth]
    assert parameters(network) / 1e6 == pytest.approx(paper, abs=0.006 if paper < 1 else 0.1)


# torchvision's published counts for the same networks.
TORCHVISION_PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


@pytest.mark.parametrize("depth", TORCHVISION_PARAMETERS)
def test_imagenet_post_activation_networks_have_torchvisions_parameters(depth: int) -> None:
    with torch.device("meta"):
        network = ResNet(spec_for(f"resnet{depth}-postact"))
    assert parameters(network) == TORCHVISION_PARAMETERS[depth]
    keys = network.state_dict().keys()
    assert {"conv1.weight", "bn1.running_var", "layer1.0.bn1.weight", "layer2.0.downsample.0.weight", "fc.bias"} <= keys


@pytest.mark.parametrize("depth", TORCHVISION_PARAMETERS)
def test_pre_activation_normalises_before_every_block_and_before_the_head(depth: int) -> None:
    spec = spec_for(f"resnet{depth}-preact")
    with torch.device("meta"):
        network = ResNet(spec)
    blocks = [module for module in network.modules() if isinstance(module, PreActBasicBlock | PreActBottleneck)]
    assert len(blocks) == sum(spec.blocks_per_stage)
    assert network.bn1 is None
    assert network.norm is not None
    assert not any(isinstance(module, nn.BatchNorm2d) for block in blocks for module in block.downsample.modules())


@pytest.mark.parametrize("variant", [name for name in named_variants() if "1001" not in name])
def test_every_named_variant_maps_images_to_logits(variant: str) -> None:
    spec = spec_for(variant)
    size = 32 if spec.stem is Stem.CIFAR else 64
    with torch.inference_mode():
        logits = build(spec, seed=0).eval()(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, spec.num_classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("shortcut", list(Shortcut))
@pytest.mark.parametrize("kind", list(BlockKind))
def test_a_pre_activation_block_adds_to_the_stream_that_its_shortcut_reads(kind: BlockKind, shortcut: Shortcut) -> None:
    """Option A reads the raw stream, a projection the activated one."""
    block = BLOCKS[BlockOrdering.PRE_ACTIVATION, kind](16, 32, 2, shortcut).eval()
    randomise_batch_norms(block)
    for name, parameter in block.named_parameters():
        if name in {"conv2.weight", "conv3.weight"}:
            parameter.data.zero_()  # the residual branch gives nothing
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    read = x if shortcut is Shortcut.OPTION_A else relu(block.get_submodule("bn1")(x))
    with torch.inference_mode():
        assert torch.equal(block(x), block.get_submodule("downsample")(read))


@pytest.mark.parametrize("kind", list(BlockKind))
def test_a_post_activation_block_ends_in_a_relu_and_a_pre_activation_block_does_not(kind: BlockKind) -> None:
    x = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    channels = 64 if kind is BlockKind.BASIC else 16
    for ordering, negative in ((BlockOrdering.POST_ACTIVATION, False), (BlockOrdering.PRE_ACTIVATION, True)):
        with torch.inference_mode():
            out = BLOCKS[ordering, kind](64, channels, 1, Shortcut.OPTION_A).eval()(x)
        assert bool((out < 0).any()) is negative


def test_option_a_subsamples_and_pads_channels_with_zeros() -> None:
    x = torch.arange(2 * 4 * 4 * 4, dtype=torch.float32).reshape(2, 4, 4, 4)
    out = OptionA(4, 8, stride=2)(x)
    assert out.shape == (2, 8, 2, 2)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_a_seed_settles_the_weights_and_leaves_the_global_generator_alone(ordering: BlockOrdering) -> None:
    spec = spec_for(f"resnet8-{ordering}")
    before = torch.random.get_rng_state()
    first, second, other = build(spec, seed=3), build(spec, seed=3), build(spec, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_every_parameter_receives_a_gradient(ordering: BlockOrdering) -> None:
    network = build(spec_for(f"resnet14-{ordering}"), seed=0).train()
    network(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
