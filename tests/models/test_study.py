"""The study trains what is missing, keeps what is there, and its figures say what its table holds."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from models.__main__ import main
from models.spec import BlockOrdering
from models.study import Study, StudyRun
from models.study_table import Curve, as_markdown, common_target, contrasts, read_table, write_table
from tests.conftest import ROOT

POST, PRE = BlockOrdering.POST_ACTIVATION, BlockOrdering.PRE_ACTIVATION
FIGURES = ["curves.svg", "gradients.svg"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for part, n in (("train", 160), ("test", 40)):
        labels = np.arange(n, dtype=np.uint8) % 2
        images = generator.integers(0, 128, (n, 3, 32, 32), dtype=np.uint8)
        images[labels == 1, 0] += 127
        np.savez(folder / f"cifar10-{part}.npz", images=images, labels=labels, class_names=np.array(["dark", "red"]))
    return folder


def command(data: Path, out: Path) -> list[str]:
    options = ["--depths", "8", "--seeds", "0", "1", "--epochs", "2", "--jobs", "2", "--batch-size", "16"]
    return ["study", "--data", str(data), "--out", str(out), "--device", "cpu", "--precision", "fp32", *options]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed in its midst, then begun again."""
    out = tmp_path_factory.mktemp("study")
    process = subprocess.Popen([sys.executable, "-m", "models", *command(data, out)], cwd=ROOT)
    while not any(out.glob("*/state.safetensors")):
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert len(list(out.glob("*/*.md"))) < 4
    assert main(command(data, out)) == 0
    return out


def test_every_run_is_in_the_table(finished: Path) -> None:
    with (finished / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["ordering"], row["seed"], row["epoch"]) for row in rows] == [
        (ordering, seed, epoch) for seed in "01" for ordering in ("postact", "preact") for epoch in "12"
    ]
    log = finished / "resnet8-preact-seed1" / "resnet8-preact.log.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(last["test_accuracy"])
    assert float(rows[-1]["gradient_norm_layer2"]) == pytest.approx(last["gradient_norm"]["layer2"], rel=1e-4)
    for name in FIGURES:
        assert "</svg>" in (finished / name).read_text()
    assert "| 8 | 2 |" in (finished / "study.md").read_text()


def test_a_finished_study_trains_nothing_and_draws_the_same(data: Path, finished: Path) -> None:
    files = sorted(finished.glob("*/*")) + [finished / name for name in FIGURES]
    before = {path: path.read_bytes() for path in files}
    assert main(command(data, finished)) == 0
    assert {path: path.read_bytes() for path in files} == before


def test_a_run_that_fails_is_named_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "resnet8-preact-seed0"
    damaged.mkdir()
    (damaged / "state.safetensors").write_bytes(b"half a fi")
    arguments = [sys.executable, "-m", "models", *command(data, tmp_path), "--seeds", "0"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "resnet8-preact, seed 0, failed: error:" in done.stderr + done.stdout
    assert "state.safetensors: damaged" in done.stderr + done.stdout
    assert (tmp_path / "resnet8-postact-seed0" / "resnet8-postact.safetensors").exists()
    assert "| 8 |" not in (tmp_path / "study.md").read_text()  # nothing to contrast it with


def curve(ordering: BlockOrdering, seed: int, accuracies: list[float], depth: int = 20) -> Curve:
    losses = tuple(round(1 - accuracy, 3) for accuracy in accuracies)
    figures = {"train_loss": losses, "test_loss": losses, "test_accuracy": tuple(accuracies)}
    return Curve(StudyRun(depth, ordering, seed), figures)


CURVES = [
    curve(POST, 0, [0.5, 0.8, 0.90]),
    curve(PRE, 0, [0.7, 0.85, 0.92]),
    curve(POST, 1, [0.4, 0.8, 0.91]),
    curve(PRE, 1, [0.6, 0.8, 0.92]),
    curve(POST, 2, [0.4, 0.7, 0.92]),  # its partner is not there
    curve(PRE, 2, [0.4, 0.7]),  # unfinished
]


def test_contrasts_pair_the_seeds_that_both_have_finished(tmp_path: Path) -> None:
    (row,) = contrasts(CURVES, lambda each: each.test_error)
    assert (row.depth, row.n) == (20, 2)
    assert row.post == pytest.approx((10, 9))
    assert row.pre == pytest.approx((8, 8))
    assert row.difference is not None
    assert row.difference.estimate == pytest.approx(-1.5)
    write_table(CURVES, tmp_path / "epochs.csv")
    assert read_table(tmp_path / "epochs.csv") == CURVES


def test_epochs_to_a_target_are_counted_from_one() -> None:
    assert common_target(CURVES[:4]) == pytest.approx(0.9)
    (row,) = contrasts(CURVES, lambda each: each.epochs_to(0.8))
    assert (row.post, row.pre) == ((2, 2), (2, 2))
    assert contrasts(CURVES, lambda each: each.epochs_to(0.99)) == []  # a run that never reaches it has no figure


def test_the_tables_claim_no_more_than_the_intervals_do() -> None:
    text = as_markdown(CURVES, None)
    assert "| 20 | 2 | 9.50 ± 0.71 | 8.00 ± 0.00 | -1.50 [-7.85, +4.85] | no difference | 8.75 |  |" in text
    assert "unfinished: resnet20-preact seed 2" in text
    assert "did not reach the target: resnet20-preact seed 2" in text
    assert "resnet20-postact seed 0, resnet20-postact seed 1." in as_markdown(CURVES[:4], 0.915)


def test_a_study_of_impossible_depth_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--data", str(data), "--depths", "21"]) == 2
    assert "has depth 6n+2, not 21" in capsys.readouterr().err
    assert main(["study", "--data", str(data), "--jobs", "0"]) == 2
    assert "jobs is 0" in capsys.readouterr().err


def test_a_finished_run_of_another_recipe_is_not_taken(data: Path, finished: Path) -> None:
    from models.recipe import Recipe

    recipe = Recipe(epochs=2, batch_size=16)
    study = Study(finished, data, (8,), (0,), recipe, "cpu")
    assert [study.is_finished(run) for run in study.runs] == [True, True]
    longer = Study(finished, data, (8,), (0,), Recipe(epochs=3, batch_size=16), "cpu")
    assert [longer.is_finished(run) for run in longer.runs] == [False, False]
