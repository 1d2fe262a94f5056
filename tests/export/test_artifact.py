"""An artifact is whole and provable, or it is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.torch import save_file

from export import verify
from export.__main__ import choices, main, parser, settings_of
from export.artifact import ArtifactError, Manifest, Precision, command_of, manifest_bytes, read_manifest
from export.job import given, open_job
from models.resnet import build
from models.spec import spec_for
from models.weights import Description, write_checkpoint
from tests.conftest import PAIR, ROOT, registered

LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def exported(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, Path]:
    """Export by the command line; returns the version and the artifact's folder in the store."""
    import bentoml

    capsys.readouterr()
    assert main(arguments) == 0
    tag = capsys.readouterr().out.strip()
    model = bentoml.models.get(tag)
    return str(model.tag.version), Path(model.path)


def kept(folder: Path, *arguments: str) -> tuple[str, Path]:
    """What an export with these arguments makes, away from the store; its version and where it lies."""
    import bentoml

    (tag,) = registered(*arguments)
    model = bentoml.models.get(tag)
    left_out = shutil.ignore_patterns("model.yaml")  # is BentoML's
    return str(model.tag.version), Path(shutil.copytree(model.path, folder / "artifact", ignore=left_out))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return kept(tmp_path_factory.mktemp("untrained"), "resnet8-preact", "--untrained")


@pytest.fixture
def artifact(untrained: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """A copy of an untrained artifact, to be spoiled."""
    version, folder = untrained
    return version, Path(shutil.copytree(folder, tmp_path / "artifact"))


def test_an_untrained_artifact_says_so_and_says_what_was_not_measured(artifact: tuple[str, Path]) -> None:
    version, folder = artifact
    manifest = read_manifest(folder, version)
    assert not manifest.trained
    assert manifest.accuracy is None
    assert manifest.checkpoint_sha256 is None
    assert "untrained" in manifest.not_measured["accuracy"]
    assert manifest.parity is not None
    assert "photographs and tiles" in manifest.parity.images
    assert version.startswith("onnxruntime-fp32-")


def test_the_command_of_an_artifact_makes_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_for("resnet8-postact")
    path = tmp_path / "weights.safetensors"
    write_checkpoint(path, build(spec, seed=0), Description(spec, tuple("abcdefghij"), {}))
    cache = ["--engine-cache", str(tmp_path / "engines")]
    arguments = ["--max-batch-size", "3", "--no-fold", "--runtime", "tensorrt_rtx", "--compute-capability", "8.9"]
    version, folder = exported(["resnet8-postact", "--checkpoint", str(path), *arguments, *cache], capsys)
    words = command_of(read_manifest(folder, version)).split()
    assert words[:6] == ["python", "-m", "export", "resnet8-postact", "--checkpoint", "FILE"]
    again, _ = exported([*words[3:5], str(path), *words[6:], *cache], capsys)
    assert again == version


def test_what_describes_a_checkpoint_and_what_was_measured_on_is_given_again(tmp_path: Path) -> None:
    said = ["resnet8-preact", "--mean", "0.5", "0.25", "0.1", "--shortcut", "projection", "--labels", str(tmp_path)]
    options = parser().parse_args([*said, "--data", str(tmp_path), "--most-points-lost", "1"])
    (choice,) = choices(options)
    assert sorted(given(choice, settings_of(options))) == sorted(
        [*said[1:-1], "FILE", "--data", "FOLDER", "--most-points-lost", "1.0"]
    )


def test_exporting_again_gives_the_same_version(artifact: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(["resnet8-preact", "--untrained"], capsys)[0] == artifact[0]


def test_a_changed_byte_in_the_model_is_refused(artifact: tuple[str, Path]) -> None:
    version, folder = artifact
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx: sha256 is .*export again: python -m export resnet8-preact"):
        read_manifest(folder, version)


def test_a_changed_manifest_is_refused(artifact: tuple[str, Path]) -> None:
    version, folder = artifact
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"trained": false', '"trained": true'))
    with pytest.raises(ArtifactError, match="its digest is"):
        read_manifest(folder, version)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "explain.onnx"])
def test_a_missing_file_is_refused(artifact: tuple[str, Path], name: str) -> None:
    version, folder = artifact
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        read_manifest(folder, version)


@pytest.mark.parametrize(
    "change",
    [
        {"not_measured": {}},
        {"labels": ["one"]},
        {"preprocessing_sha256": "0"},
        {"surplus": 1},
        {"parity": None},
        {"schema_version": 2},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(artifact: tuple[str, Path], change: dict[str, object]) -> None:
    version, folder = artifact
    fields = json.loads(manifest_bytes(read_manifest(folder, version)))
    Manifest.model_validate(fields)
    with pytest.raises(ValidationError):
        Manifest.model_validate(fields | change)


def test_above_the_tolerance_nothing_reaches_the_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bentoml

    monkeypatch.setitem(verify.TOLERANCE, Precision.FP32, 0.0)
    assert main(["resnet14-preact", "--untrained"]) == 2
    assert "accepted is 0" in capsys.readouterr().err
    assert "resnet14-preact" not in {model.tag.name for model in bentoml.models.list()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21-preact"], "depth 6n+2"),
        (["resnet56-preact"], "no weights are shipped for resnet56-preact"),
        (["resnet20-preact", "--checkpoint", "absent"], "absent"),
        (["resnet8-preact", "--untrained", "--images", "absent"], "absent: no such folder"),
        (["resnet8-preact", "--untrained", "--data", "absent"], "absent: no such folder"),
    ],
)
def test_a_wrong_request_is_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtime", "tensorrt-rtx"], "'tensorrt-rtx' is none of onnxruntime, tensorrt, tensorrt_rtx"),
        (["--precision", "fp8"], "'fp8' is none of fp32, fp16, int8, auto"),
        *((["--most-points-lost", each], f"{each} is no number of percentage points") for each in ("nan", "inf", "-1")),
    ],
)
def test_a_wrong_option_is_told_what_would_be_right(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["resnet8-preact", "--untrained", *arguments])
    assert message in capsys.readouterr().err


def test_without_labelled_data_the_gate_that_is_open_is_named(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_for("resnet8-postact")
    path = tmp_path / "weights.safetensors"
    write_checkpoint(path, build(spec, seed=0), Description(spec, tuple("abcdefghij"), {}))
    shutil.copy(photographs / "chelsea.png", tmp_path)
    arguments = ["resnet8-postact", "--precision", "fp16", "--images", str(tmp_path)]
    sentence = "resnet8-postact: fp16 passes no gate: what accuracy it costs takes labelled data (--data FOLDER)"
    assert main([*arguments, "--checkpoint", str(path)]) == 0
    assert sentence in capsys.readouterr().err
    assert main([*arguments, "--untrained"]) == 0
    assert sentence not in capsys.readouterr().err


def test_what_nobody_said_of_weights_of_another_maker_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(build(spec_for("resnet8-postact"), seed=0).state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij"))
    weights = ["--checkpoint", str(tmp_path / "weights.safetensors"), "--variant", "resnet8-postact"]
    described = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2", "--resize", "36", "--crop", "32"]
    described += ["--interpolation", "bicubic", "--labels", str(tmp_path / "labels.txt")]

    def told(arguments: list[str]) -> str:
        options = parser().parse_args(arguments)
        (choice,) = choices(options)
        open_job(choice, settings_of(options))
        return capsys.readouterr().err

    assert "--resize 32 --crop 32 --mean 0.4914" in told(weights)
    some = told([*weights, *described[:8]])
    assert some.endswith("say it: --resize 32 --crop 32 --interpolation bilinear, and numbers as --labels\n")
    assert told([*weights, *described[:-2]]).endswith("say it: numbers as --labels\n")
    assert told([*weights, *described]) == ""


def test_a_checkpoint_is_exported_under_its_own_name_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_for("resnet8-postact")
    path = tmp_path / "weights.safetensors"
    write_checkpoint(path, build(spec, seed=0), Description(spec, tuple("abcdefghij"), {}))
    assert main(["resnet8-preact", "--checkpoint", str(path)]) == 2
    assert "holds a resnet8-postact" in capsys.readouterr().err


def test_accuracy_is_measured_where_there_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        images = generator.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
        np.savez(
            tmp_path / f"cifar10-{part}.npz",
            images=images,
            labels=np.zeros(60, np.uint8),
            class_names=np.array(LABELS),
        )
    version, folder = exported(["resnet20-preact", "--data", str(tmp_path)], capsys)
    accuracy = read_manifest(folder, version).accuracy
    assert accuracy is not None
    assert accuracy.n == 60
    assert accuracy.top1 == accuracy.correct / 60


def test_data_of_other_classes_gives_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = np.array(LABELS[::-1])
    images, labels = np.zeros((2, 3, 32, 32), np.uint8), np.zeros(2, np.uint8)
    np.savez(tmp_path / "cifar10-test.npz", images=images, labels=labels, class_names=names)
    assert main(["resnet20-preact", "--data", str(tmp_path)]) == 2
    assert "the data's classes are ['truck'" in capsys.readouterr().err


def test_exporting_again_repairs_a_damaged_artifact(capsys: pytest.CaptureFixture[str]) -> None:
    version, folder = exported(["resnet8-postact", "--untrained"], capsys)
    (folder / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError):
        read_manifest(folder, version)
    assert exported(["resnet8-postact", "--untrained"], capsys) == (version, folder)
    read_manifest(folder, version)
    (folder / "model.yaml").unlink()  # as a kill during registration leaves it
    assert exported(["resnet8-postact", "--untrained"], capsys) == (version, folder)
    read_manifest(folder, version)


KILLED = """
import os, shutil, sys
from pathlib import Path
from export.artifact import read_manifest
from export.store import register

def copytree(source, target, **more):
    if len(copies) == 1:  # the first fills BentoML's temporary folder
        Path(target).mkdir(parents=True, exist_ok=True)
        os._exit(9)
    copies.append(real(source, target, **more))

copies, real, shutil.copytree = [], shutil.copytree, copytree
register(Path(sys.argv[1]), read_manifest(Path(sys.argv[1]), sys.argv[2]))
"""


def test_a_kill_while_registering_leaves_no_half_model(artifact: tuple[str, Path], tmp_path: Path) -> None:
    from bentoml._internal.models.model import ModelStore

    version, folder = artifact
    home = tmp_path / "home"
    environment = os.environ | {"BENTOML_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", KILLED, folder, version], env=environment, cwd=ROOT)
    assert done.returncode == 9
    assert ModelStore(home / "models").list() == []


def test_an_export_that_is_terminated_removes_what_it_began(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "resnet8-preact", "--untrained"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        # Just made, and empty, the folder is not yet known to who removes it.
        while process.poll() is None and not list(tmp_path.glob("preflight-export-*/*")):
            time.sleep(0.01)
        process.terminate()
        assert process.wait() == 143
    assert not list(tmp_path.glob("preflight-export-*"))


def test_the_last_export_is_the_newest(capsys: pytest.CaptureFixture[str]) -> None:
    import bentoml

    first, _ = exported(["resnet8-postact", "--untrained"], capsys)
    second, _ = exported(["resnet8-postact", "--untrained", "--max-batch-size", "3"], capsys)
    assert bentoml.models.get("resnet8-postact").tag.version == second != first
    exported(["resnet8-postact", "--untrained"], capsys)
    assert bentoml.models.get("resnet8-postact").tag.version == first


@pytest.mark.parametrize("place", [0, 1])
def test_the_shipped_pair_agrees_with_torch_on_photographs(place: int, exported_pair: tuple[str, str]) -> None:
    import bentoml

    model = bentoml.models.get(exported_pair[place])
    manifest = read_manifest(Path(model.path), str(model.tag.version))
    assert manifest.variant == PAIR[place]
    assert manifest.trained
    assert manifest.labels[3] == "cat"
    assert manifest.parity is not None
    assert manifest.parity.top1_agreement == 1.0
    assert manifest.parity.n > 500
    assert manifest.parity.max_abs_logit_difference < 1e-3
    assert manifest.accuracy is None
    assert "--data" in manifest.not_measured["accuracy"]
    assert manifest.training_accuracy is not None
    assert manifest.training_accuracy.top1 > 0.9
