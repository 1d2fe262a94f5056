"""Accuracy, calibration and classes of a network, counted by hand on small answers and run on shipped networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.__main__ import main
from models.evaluation import Answers, calibration_error, class_rows
from tests.conftest import PAIR, SHARED_DATA


def answers(probabilities: list[list[float]], labels: list[int]) -> Answers:
    names = tuple("abcdefgh"[: len(probabilities[0])])
    return Answers("made", names, np.array(probabilities), np.array(labels), 0.0)


def test_calibration_error_is_the_gap_between_sure_and_right() -> None:
    """Four answers at 0.9 of which two are right, and one at 0.5 that is: (4 * 0.4 + 1 * 0.5) / 5."""
    sure, unsure = [0.9, 0.1], [0.5, 0.5]
    assert calibration_error(answers([sure] * 4 + [unsure], [0, 0, 1, 1, 0])) == pytest.approx((4 * 0.4 + 0.5) / 5)
    assert calibration_error(answers([[1.0, 0.0]] * 3, [0, 0, 0])) == 0


def test_top_5_of_fewer_classes_is_everything() -> None:
    assert answers([[0.6, 0.3, 0.1]] * 4, [0, 1, 2, 2]).top5.estimate == 1
    seven = [0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05]
    assert answers([seven] * 4, [0, 4, 5, 6]).top5.estimate == 0.5


def test_class_rows_count_recall_precision_and_confusion() -> None:
    one_hot = np.eye(3).tolist()
    found = answers([one_hot[0], one_hot[0], one_hot[1], one_hot[1], one_hot[0]], [0, 0, 0, 1, 1])
    first, second = class_rows(found)
    assert (first.n, first.recall.estimate, first.precision, first.taken_for) == (3, 2 / 3, 2 / 3, "b")
    assert (second.n, second.recall.estimate, second.precision, second.taken_for) == (2, 1 / 2, 1 / 2, "a")
    assert class_rows(answers([one_hot[0]], [0]))[0].taken_for is None


def subset(folder: Path, order: list[int], n: int = 400) -> None:
    """The first images of the test set, with the classes in another order."""
    with np.load(SHARED_DATA / "cifar10" / "cifar10-test.npz") as arrays:
        labels, names = np.argsort(order)[arrays["labels"][:n]], arrays["class_names"][order]
        for part in ("train", "test"):
            np.savez(folder / f"cifar10-{part}.npz", images=arrays["images"][:n], labels=labels, class_names=names)


@pytest.mark.shared_data
def test_the_pair_is_compared_on_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for name, order in (("given", list(range(10))), ("reversed", list(range(9, -1, -1)))):
        (tmp_path / name).mkdir()
        subset(tmp_path / name, order)
        assert main(["evaluate", *PAIR, "--data", str(tmp_path / name), "--out", str(tmp_path / name)]) == 0
        results.append(json.loads((tmp_path / name / "evaluation.json").read_text()))
    said = capsys.readouterr().out
    assert "it may mean nothing" in said
    assert "same 400 images" in said
    given, backwards = results
    for index in range(2):
        assert given["networks"][index]["top1"] == backwards["networks"][index]["top1"]  # classes go by name
        assert given["networks"][index]["top1"]["estimate"] > 0.85
    first, second = (network["top1"]["estimate"] * 400 for network in given["networks"])
    assert given["mcnemar"]["only_second"] - given["mcnemar"]["only_first"] == pytest.approx(second - first)
    assert (tmp_path / "given" / "evaluation.svg").read_text().startswith("<?xml")


def test_a_folder_is_evaluated_whole_and_its_unreadable_files_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "truck"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    arguments = ["evaluate", "resnet20-preact", "--data", str(tmp_path), "--part", "whole"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["images"] == 6
    assert [row["name"] for row in result["networks"][0]["classes"]] == ["cat", "truck"]
    assert "broken.png" in result["unreadable"][0]
    said = capsys.readouterr()
    assert "broken.png" in said.err
    assert "1 files left out" in said.out


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "walrus"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / name / "1.png")

    def error(*networks: str) -> str:
        assert main(["evaluate", *networks, "--data", str(tmp_path), "--part", "whole"]) == 2
        return capsys.readouterr().err

    assert "1 of the data's 2 classes are not among those of resnet20-preact: walrus" in error("resnet20-preact")
    assert "compare two" in error(*PAIR, "resnet20-preact")
    assert "no weights are shipped for resnet56-preact" in error("resnet56-preact")
