"""Training learns, logs, and loses nothing to a kill."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save

from models.__main__ import main
from models.recipe import Recipe
from models.resnet import build
from models.spec import spec_for
from models.train import gradient_norms
from models.weights import read_checkpoint
from tests.conftest import ROOT

VARIANT = "resnet8-preact"
OPTIONS = ["--epochs", "3", "--batch-size", "16", "--precision", "fp32", "--device", "cpu", "--warmup-epochs", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by their colour, in the shape of CIFAR-10."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for part, n in (("train", 256), ("test", 40)):
        labels = np.arange(n, dtype=np.uint8) % 2
        images = generator.integers(0, 128, (n, 3, 32, 32), dtype=np.uint8)
        images[labels == 1, 0] += 127
        np.savez(folder / f"cifar10-{part}.npz", images=images, labels=labels, class_names=np.array(["dark", "red"]))
    return folder


def command(data: Path, out: Path) -> list[str]:
    return ["train", VARIANT, "--data", str(data), "--out", str(out), *OPTIONS]


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "models", *command(data, out)], cwd=ROOT, env=environment, check=True)
    return out


def test_it_learns_and_says_so_in_card_and_log(uninterrupted: Path) -> None:
    checkpoint = read_checkpoint(uninterrupted / f"{VARIANT}.safetensors")
    training = checkpoint.description.training
    assert training["test"]["top1"] > 0.9  # two colours; chance is 0.5
    assert checkpoint.description.class_names == ("dark", "red")
    card = (uninterrupted / f"{VARIANT}.md").read_text()
    assert f"{training['test']['correct']} of 40" in card
    assert checkpoint.sha256 in card
    lines = [json.loads(line) for line in (uninterrupted / f"{VARIANT}.log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test_accuracy"] == training["test"]["top1"]
    assert set(lines[0]["gradient_norm"]) == {"stem", "layer1", "layer2", "layer3", "head"}
    assert {"lr", "train_loss", "train_accuracy", "test_loss", "seconds"} <= lines[0].keys()


def test_a_kill_in_mid_epoch_costs_nothing_but_time(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Bit for bit the weights of an uninterrupted run, and the same log but for its clock."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "models", *command(data, tmp_path)]
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "state.safetensors").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / f"{VARIANT}.safetensors").exists()
    with (tmp_path / f"{VARIANT}.log.jsonl").open("a") as log:
        log.write('{"epoch": 2, "a line": "that the kill left without its state"}\n')

    subprocess.run(arguments, cwd=ROOT, env=environment, check=True)
    expected, found = (load_file(folder / f"{VARIANT}.safetensors") for folder in (uninterrupted, tmp_path))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert epochs(tmp_path) == epochs(uninterrupted)


def epochs(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / f"{VARIANT}.log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_finished_run_is_left_alone(data: Path, uninterrupted: Path) -> None:
    path = uninterrupted / f"{VARIANT}.safetensors"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert main(command(data, uninterrupted)) == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_folder_of_images_is_trained_on(tmp_path: Path) -> None:
    for name, color in (("dark", 20), ("light", 220)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (48, 36), (color, number, number)).save(tmp_path / "data" / name / f"{number}.jpg")
    arguments = ["train", VARIANT, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *OPTIONS]
    subprocess.run([sys.executable, "-m", "models", *arguments], cwd=ROOT, check=True)
    checkpoint = read_checkpoint(tmp_path / "run" / f"{VARIANT}.safetensors")
    assert checkpoint.description.class_names == ("dark", "light")
    assert checkpoint.description.training["test"]["n"] == 8


def test_two_devices_share_the_batches(data: Path, tmp_path: Path) -> None:
    """On the CPU two processes stand for two devices; gradients and figures are those of both."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "models", *command(data, tmp_path), "--devices", "2"]
    subprocess.run(arguments, cwd=ROOT, env=environment, check=True, timeout=300)
    training = read_checkpoint(tmp_path / f"{VARIANT}.safetensors").description.training
    assert training["test"]["top1"] > 0.9
    assert training["device"].startswith("2 x CPU")
    assert [line["epoch"] for line in epochs(tmp_path)] == [1, 2, 3]
    subprocess.run([*arguments[:-1], "1"], cwd=ROOT, env=environment, check=True)  # the number of devices is no recipe


def test_a_folder_in_use_is_not_trained_in(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(tmp_path / ".lock"):
        assert main(command(data, tmp_path)) == 2
    assert "another process trains in it" in capsys.readouterr().err


def test_training_that_diverges_is_an_error(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(data, tmp_path), "--peak-lr", "1e18"]) == 2
    assert "training diverged" in capsys.readouterr().err
    assert not (tmp_path / f"{VARIANT}.safetensors").exists()
    assert main([*command(data, tmp_path), "--peak-lr", "nan"]) == 2
    assert "peak lr is nan" in capsys.readouterr().err


def test_another_recipe_does_not_continue_a_run(
    data: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (uninterrupted / "state.safetensors").read_bytes()
    assert main([*command(data, uninterrupted), "--seed", "1"]) == 2
    said = capsys.readouterr().err
    assert "holds another run:\n  recipe.seed: found 0, expected 1\ncontinue it" in said
    assert (uninterrupted / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", [b"half a fi", save({}, {"identity": "no object"}), save({}, {"identity": "[]"})])
def test_a_damaged_state_is_named(
    content: bytes, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.safetensors").write_bytes(content)
    assert main(command(data, tmp_path)) == 2
    assert "state.safetensors: damaged" in capsys.readouterr().err


def test_absent_data_is_an_error_and_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", VARIANT, "--data", str(tmp_path / "absent"), "--out", str(tmp_path / "run")]) == 2
    assert "absent: no such folder" in capsys.readouterr().err


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    recipe = Recipe(epochs=10, peak_lr=0.4, warmup_epochs=2)
    rates = [recipe.lr(step, steps_per_epoch=5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert max(rates) == pytest.approx(0.4)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert recipe.lr(50, 5) == pytest.approx(0)


@pytest.mark.parametrize("variant", ["resnet8-postact", "resnet8-preact"])
def test_gradient_norms_add_up_over_the_stages(variant: str) -> None:
    network = build(spec_for(variant), seed=0)
    network(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).sum().backward()
    whole = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    stages = torch.stack(list(gradient_norms(network).values()))
    assert stages.square().sum().sqrt().item() == pytest.approx(whole.item(), rel=1e-5)
