"""`make gpu-check` on a machine without a GPU: its steps run on what is here, its report names what is missing."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import gpu_check
from export.artifact import Precision
from export.cuda import UnavailableError
from export.gpu_bench import cells_in
from serving.config import ServingRuntime
from tests.conftest import ROOT
from tests.models.test_data import write_batches

NO_GPU = UnavailableError("no usable CUDA device")


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(rounds=6, users=2, depths=[20], data=None, out=tmp_path)


def test_the_steps_run_and_are_reported(options: argparse.Namespace, tmp_path: Path) -> None:
    """ONNX Runtime on the CPU takes the GPU's place: the same export, runner, service and load test."""
    folder, data = tmp_path / "some-gpu", tmp_path / "cifar-10-batches-py"
    data.mkdir()
    write_batches(data)
    pair = gpu_check.pair(folder, ServingRuntime.ONNXRUNTIME, Precision.FP32, data)
    assert set(pair) == set(gpu_check.PAIRS[20])
    for found in pair.values():
        assert found["device"] == "cpu"
        assert found["points_lost"] == 0.0
        assert found["verdict"] == "holds"
    results = gpu_check.results_in(folder, NO_GPU, options)
    served_as = (folder, ServingRuntime.ONNXRUNTIME, 20, "tensors", options, results)
    with pytest.raises(RuntimeError, match="export-onnxruntime-resnet20-fp16 has failed"):
        gpu_check.served(*served_as)
    tags = [found["tag"] for found in pair.values()]  # fp32: this runtime is for CPUs
    results.keep(gpu_check.exported_as(ServingRuntime.ONNXRUNTIME, 20), {"tags": tags})
    served = gpu_check.served(*served_as)
    assert served["ready_s"] > 0
    (failed,) = [each for each in served["comparison"]["differences"] if each["metric"] == "failure_rate"]
    assert (failed["a"], failed["b"]) == (0.0, 0.0)
    for name, step in {"pair-x": pair, "served-x": served, "pair-y": {"failed": "RuntimeError: no"}}.items():
        results.keep(name, step)
    text = gpu_check.report(results, cells_in(folder, NO_GPU, 6), tmp_path, NO_GPU)
    assert "missing: tensorrt_rtx: no usable CUDA device" in text
    assert "resnet20-preact: " in text
    assert "req/s, p99" in text
    assert "pair-y  failed: RuntimeError: no" in text
    assert ", ".join(tags) in text
    steps = {"export-onnxruntime-resnet20-fp16", "pair-x", "served-x", "pair-y"}
    assert set(json.loads((tmp_path / "some-gpu.json").read_text())["steps"]) == steps


def test_every_runtime_and_precision_has_its_step(options: argparse.Namespace, tmp_path: Path) -> None:
    results = gpu_check.results_in(tmp_path, NO_GPU, options)
    names = [name for name, _ in gpu_check.steps(tmp_path, list(gpu_check.SERVED), options, results)]
    assert names[:3] == ["pair-tensorrt-fp32", "pair-tensorrt-fp16", "pair-tensorrt-int8"]
    assert "pair-onnxruntime-cuda-int8" not in names
    assert names[-1] == "served-onnxruntime-cuda-resnet20-fp16-tensors"


@pytest.mark.no_gpu
def test_without_a_gpu_it_ends_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--out", str(tmp_path)])
    monkeypatch.setattr("os.environ", dict(gpu_check.os.environ))
    assert gpu_check.main() == 3
    assert capsys.readouterr().out.count("missing: ") == 5
    assert json.loads((tmp_path / "no-gpu.json").read_text())["machine"]["gpu"] is None


def test_what_a_step_measured_decides_the_exit_status() -> None:
    held = {"resnet20-preact": {"verdict": "holds"}, "seconds": 1.0}
    missed = held | {"resnet20-postact": {"verdict": "does not hold"}}
    statuses = [gpu_check.status_of(gpu_check.measures(step)) for step in (held, missed, {"failed": "x"})]
    assert statuses == [0, 5, 4]
    assert gpu_check.worst(0, 5, 4, 0) == 4
    assert gpu_check.worst(0, 0) == 0


def test_steps_of_other_conditions_are_run_again(options: argparse.Namespace, tmp_path: Path) -> None:
    gpu_check.results_in(tmp_path, NO_GPU, options).keep("pair-x", {})
    assert gpu_check.results_in(tmp_path, NO_GPU, options).has("pair-x")
    for change in ({"rounds": 7}, {"users": 3}, {"data": tmp_path}):
        others = argparse.Namespace(**vars(options) | change)
        results = gpu_check.results_in(tmp_path, NO_GPU, others)
        assert not results.has("pair-x")
        assert f"({next(iter(change))}: " in str(results.begun_anew())


def test_data_that_is_named_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--data", str(tmp_path / "absent")])
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main()
    assert "absent: no such folder" in capsys.readouterr().err
    if (make := shutil.which("make")) is not None:
        said = subprocess.run([make, "-n", "export", "DATA=absent"], cwd=ROOT, capture_output=True, text=True).stdout
        assert "--data absent" in said
