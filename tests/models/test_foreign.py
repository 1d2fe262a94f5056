"""Checkpoints that timm, torchvision and others write load strictly and compute the same logits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.__main__ import main
from models.foreign import read_foreign
from models.resnet import build
from models.spec import Shortcut, spec_for
from models.weights import Checkpoint, CheckpointError, Description
from tests.conftest import SHARED_DATA
from tests.peers import peers

AKAMASTER = SHARED_DATA / "cifar10" / "resnet20-12fca82f.th"

PEERS: list[tuple[str, Callable[[Any], nn.Module]]] = [
    ("resnet50-preact", lambda found: found["timm"].create_model("resnetv2_50")),
    ("resnet101-preact", lambda found: found["timm"].create_model("resnetv2_101")),
    ("resnet50-postact", lambda found: found["timm"].create_model("resnet50")),
    ("resnet18-postact", lambda found: found["torchvision"].models.resnet18()),
    ("resnet50-postact", lambda found: found["torchvision"].models.resnet50()),
]


def load(path: Path, variant: str, classes: int = 1000, shortcut: Shortcut | None = None) -> nn.Module:
    spec = spec_for(variant, num_classes=classes, shortcut=shortcut)
    return Checkpoint(Description(spec, (), {}), read_foreign(path), "").network()


@pytest.mark.parametrize(("variant", "make"), PEERS, ids=["timm-v2-50", "timm-v2-101", "timm-50", "tv-18", "tv-50"])
def test_timm_and_torchvision_weights_give_equal_logits(
    variant: str, make: Callable[[Any], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    peer = make(peers()).eval()
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 0.6)
            module.bias.data.normal_(0, 0.1)
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.1)
    save_file(peer.state_dict(), tmp_path / "peer.safetensors")
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected, found = peer(images), load(tmp_path / "peer.safetensors", variant)(images)
    assert (expected - found).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return build(spec_for("resnet8-postact"), seed=0).state_dict()


def test_wrappers_prefixes_and_other_heads_are_understood(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    named = {name.replace("fc.", "linear."): tensor for name, tensor in weights.items() if "num_batches" not in name}
    content = {"epoch": 3, "state_dict": {f"module.{name}": tensor.half() for name, tensor in named.items()}}
    torch.save(content, tmp_path / "c.th")
    network = load(tmp_path / "c.th", "resnet8-postact", classes=10)
    assert torch.equal(network.get_parameter("fc.weight"), weights["fc.weight"].half().float())


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod.", "_orig_mod.model.", "backbone.net."])
def test_a_prefix_that_all_names_share_is_left_out(
    prefix: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in weights.items()}}, tmp_path / "c.ckpt")
    found = read_foreign(tmp_path / "c.ckpt")
    assert found.keys() == {name for name in weights if not name.endswith("num_batches_tracked")}


def test_names_that_are_not_known_are_told_by_their_beginnings(
    weights: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {f"model.{name}": tensor for name, tensor in weights.items()} | {"loss.weight": torch.ones(10)}
    torch.save({"state_dict": named}, tmp_path / "c.ckpt")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg") + "\n")
    arguments = ["resnet8-postact", "--checkpoint", str(tmp_path / "c.ckpt"), "--labels", str(tmp_path / "labels.txt")]
    assert main(arguments) == 2
    assert "likely: other names: they begin with loss., model.; expected bn1., conv1., fc." in capsys.readouterr().err


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


def spoiled(weights: dict[str, torch.Tensor], kind: str, path: Path) -> list[str]:
    """Write a checkpoint that must be refused; returns the words that its error must have."""
    if kind == "code":
        torch.save({"state_dict": weights, "extra": RunsCode()}, path)
        return ["nothing was run"]
    if kind == "module":
        torch.save(build(spec_for("resnet8-postact"), seed=0), path)
        return ["a pickled module or other objects, which are not loaded", "torch.save(model.state_dict(), FILE)"]
    if kind == "absent":
        return ["error: c.pth: no such file\n"]
    torch.save({"optimizer": "none"} if kind == "no weights" else weights, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
        return ["neither a readable safetensors file nor torch's"]
    if kind == "no weights":
        return ["expected weights by name", "0 tensors"]
    return []


@pytest.mark.parametrize("kind", ["code", "module", "absent", "truncated", "no weights"])
def test_a_spoiled_file_is_refused(
    kind: str, weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = spoiled(weights, kind, tmp_path / "c.pth")
    assert main(["--checkpoint", "c.pth", "--variant", "resnet8-postact"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert "\x1b" not in error
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--variant", "resnet14-postact"], "another depth: blocks a stage are [1, 1, 1], expected [2, 2, 2]"),
        (["--variant", "resnet8-preact"], "the other block ordering: the checkpoint looks like post-activation"),
        (
            ["--variant", "resnet8-postact", "--num-classes", "7"],
            "another number of classes: the checkpoint's head has 10",
        ),
        (["--variant", "resnet8-postact", "--shortcut", "projection"], "another kind of shortcut"),
        (["--variant", "resnet8-postact", "--crop", "64"], "crop is 64, resize 32"),
        (["--variant", "resnet8-postact", "--labels", "absent.txt"], "a label a line"),
        (["resnet8-postact", "resnet8-preact"], "one at a time"),
        ([], "no variant is named"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_likely_cause(
    arguments: list[str],
    cause: str,
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(weights, tmp_path / "c.pth")
    assert main(["--checkpoint", str(tmp_path / "c.pth"), *arguments]) == 2
    assert cause in capsys.readouterr().err


def test_a_model_file_saves_the_typing(
    weights: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import bentoml

    torch.save(weights, tmp_path / "c.pth")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij") + "\n")
    (tmp_path / "model.toml").write_text(
        'variant = "resnet8-postact"\ncheckpoint = "c.pth"\nlabels = "labels.txt"\nmean = [0.5, 0.5, 0.5]\ncrop = 28\n'
    )
    assert main(["--model-file", str(tmp_path / "model.toml"), "--crop", "30"]) == 0
    manifest = (Path(bentoml.models.get(capsys.readouterr().out.strip()).path) / "manifest.json").read_text()
    assert '"crop": 30' in manifest
    assert '"a",' in manifest
    (tmp_path / "model.toml").write_text('variant = "resnet8-postact"\nmeen = [0.5, 0.5, 0.5]\n')
    assert main(["--model-file", str(tmp_path / "model.toml")]) == 2
    assert "meen: Extra inputs" in capsys.readouterr().err


def test_what_a_checkpoint_of_ours_says_of_itself_is_not_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet20-preact", "--mean", "0", "0", "0"]) == 2
    assert "describes itself; leave out mean" in capsys.readouterr().err


@pytest.mark.shared_data
def test_a_published_option_a_checkpoint_loads() -> None:
    network = load(AKAMASTER, "resnet20-postact", classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722
    with pytest.raises(CheckpointError):
        load(AKAMASTER, "resnet20-preact", classes=10)
