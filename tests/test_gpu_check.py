"""`make gpu-check` on a machine without a GPU: its steps run on what is here, its report names what is missing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

import gpu_check
from export.artifact import Precision
from export.cuda import UnavailableError
from serving.config import ServingRuntime
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
    served = gpu_check.served(folder, ServingRuntime.ONNXRUNTIME, 20, Precision.FP32, "tensors", options)
    assert served["ready_s"] > 0
    assert [lane["failures"] for lane in served["lanes"]] == [0, 0, 0]
    for name, step in {"pair-x": pair, "served-x": served, "pair-y": {"failed": "RuntimeError: no"}}.items():
        gpu_check.write(folder / "steps" / f"{name}.json", step)
    text = gpu_check.report(folder, tmp_path, NO_GPU)
    assert "missing: tensorrt_rtx: no usable CUDA device" in text
    assert "resnet20-preact: " in text
    assert "req/s, p99" in text
    assert "pair-y  failed: RuntimeError: no" in text
    assert set(json.loads((tmp_path / "some-gpu.json").read_text())["steps"]) == {"pair-x", "served-x", "pair-y"}


def test_every_runtime_and_precision_has_its_step(options: argparse.Namespace, tmp_path: Path) -> None:
    names = [name for name, _ in gpu_check.steps(tmp_path, list(gpu_check.SERVED), options)]
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
