"""Fine-tuning: the weights that were named, with a head for the classes that the folder has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from models.__main__ import main
from models.choice import ModelChoice, choice_of, open_checkpoint
from models.data import ArrayImages, Split
from models.recipe import FINE_TUNING
from models.resnet import ResNet, build
from models.spec import SpecError, spec_for
from models.train import Run, initial_network
from models.weights import Checkpoint, read_checkpoint
from tests.conftest import PAIR

CLASSES = ("columns", "disc", "rows")
CHANCE = 1 / 3
MARGIN = 0.4


def made_folder(folder: Path, images: int = 60) -> None:
    """Three shapes in two random colours each, under noise: colour and brightness tell nothing."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(images):
            shift = generator.integers(32, size=2)
            period = generator.integers(6, 12)
            mask = {
                "columns": (x + shift[0]) // (period // 2) % 2 == 0,
                "rows": (y + shift[1]) // (period // 2) % 2 == 0,
                "disc": (x - 8 - shift[0] / 2) ** 2 + (y - 8 - shift[1] / 2) ** 2 < period**2,
            }[name]
            colours = generator.integers(0, 256, (2, 3))
            pixels = np.where(mask[..., None], *colours) + generator.normal(0, 20, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03}.png")


@pytest.mark.parametrize("variant", PAIR)
def test_a_shipped_network_learns_three_new_classes(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_folder(tmp_path / "shapes")
    (tmp_path / "shapes" / "disc" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    arguments = ["--data", str(tmp_path / "shapes"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    short = ["--epochs", "4", "--batch-size", "18", "--peak-lr", "0.02"]
    assert main(["train", variant, "--init", variant, *arguments, *short]) == 0
    said = capsys.readouterr()
    assert "1 files cannot be decoded and are left out" in said.err
    assert "broken.jpg" in (tmp_path / "run" / "unreadable.txt").read_text()
    assert "a new head" in said.out

    checkpoint = read_checkpoint(tmp_path / "run" / f"{variant}.safetensors")
    assert checkpoint.description.class_names == CLASSES
    training = checkpoint.description.training
    assert training["test"]["n"] == 18
    assert training["test"]["top1"] > CHANCE + MARGIN
    assert training["initial"]["sha256"] == open_checkpoint(choice_of(variant)).sha256
    assert f"Started from | {variant}" in (tmp_path / "run" / f"{variant}.md").read_text()
    checkpoint.network()


def run_with(initial: Checkpoint, class_names: tuple[str, ...], tmp_path: Path) -> Run:
    images = ArrayImages(np.zeros((4, 3, 32, 32), np.uint8), np.zeros(4, int), len(class_names))
    split = Split("made", class_names, images)
    spec = replace(initial.description.spec, num_classes=len(class_names))
    return Run(tmp_path, spec, FINE_TUNING, split, split, Fabric(accelerator="cpu", devices=1), initial)


def equal(one: ResNet, other: ResNet, prefix: str) -> bool:
    return all(
        torch.equal(tensor, other.state_dict()[name])
        for name, tensor in one.state_dict().items()
        if name.startswith(prefix)
    )


@pytest.mark.parametrize("variant", PAIR)
def test_the_head_is_kept_for_the_same_classes_alone(variant: str, tmp_path: Path) -> None:
    initial = open_checkpoint(choice_of(variant))
    trained = initial.network()
    same = initial_network(run_with(initial, initial.description.class_names, tmp_path))
    assert equal(trained, same, "")
    others = tuple(f"other {index}" for index in range(10))
    renamed = initial_network(run_with(initial, others, tmp_path))
    assert equal(trained, renamed, "layer")
    assert not equal(trained, renamed, "fc.weight")
    assert initial_network(run_with(initial, ("a", "b", "c"), tmp_path)).fc.out_features == 3


def test_others_weights_are_a_beginning_too(tmp_path: Path) -> None:
    network = build(spec_for("resnet18-postact"), seed=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "x.pth")
    initial = open_checkpoint(choice_of(str(tmp_path / "x.pth"), "resnet18-postact"))
    begun = initial_network(run_with(initial, ("a", "b"), tmp_path))
    assert equal(network, begun, "layer4")
    assert begun.fc.out_features == 2


def test_a_model_file_says_how_others_weights_see_images(tmp_path: Path) -> None:
    torch.save(build(spec_for("resnet18-postact"), seed=3).state_dict(), tmp_path / "x.pth")
    (tmp_path / "x.toml").write_text('variant = "resnet18-postact"\ncheckpoint = "x.pth"\nresize = 72\ncrop = 64\n')
    spec = open_checkpoint(choice_of(str(tmp_path / "x.toml"))).description.spec
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (72, 64)


def test_what_cannot_be_a_beginning_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(init: str, *more: str) -> str:
        assert main(["train", "resnet20-preact", "--init", init, "--data", str(tmp_path), *more]) == 2
        return capsys.readouterr().err

    assert "holds a resnet20-postact, not a resnet20-preact" in error("resnet20-postact")
    assert "neither a file nor a variant" in error("absent.pth")
    assert "--shortcut goes with training from scratch" in error("resnet20-preact", "--shortcut", "projection")
    torch.save(build(spec_for("resnet8-preact"), seed=3).state_dict(), tmp_path / "x.pth")
    assert "another depth" in error(str(tmp_path / "x.pth"))


def test_weights_that_do_not_name_their_network_need_a_model_file(tmp_path: Path) -> None:
    torch.save(build(spec_for("resnet8-preact"), seed=3).state_dict(), tmp_path / "x.pth")
    with pytest.raises(SpecError, match="does not say which network it fits; write a model file"):
        choice_of(str(tmp_path / "x.pth"))
    assert choice_of("resnet20-preact") == ModelChoice(
        variant="resnet20-preact", checkpoint=choice_of("resnet20-preact").checkpoint
    )
