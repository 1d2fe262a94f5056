"""The benchmark writes every lane's time, and judges a bound by the interval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export import bench_lanes
from export.__main__ import main
from export.bench import verdict
from export.bench_lanes import Runtime
from export.progress import progress
from models.paired import Interval


def test_every_lane_is_measured_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.bench.runtimes", lambda: [Runtime.ONNXRUNTIME])
    monkeypatch.setattr("export.bench.TURN_S", 0.0)
    out = tmp_path / "bench.json"
    assert main(["bench", "--depths", "20", "--rounds", "6", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert [(row["batch"], row["precision"]) for row in written["rows"]] == [
        (batch, precision) for batch in (1, 32) for precision in ("fp32", "int8")
    ]
    for row in written["rows"]:
        assert set(row["ms"]) == {"post", "pre", "pre folded", "post again"}
        assert min(row["ms"].values()) > 0
        assert row["verdict"] in {"holds", "undecided", "does not hold"}
    assert written["conditions"]["rounds"] == 6
    assert written["folded"]["ResNet-20"]["fp32"] == "10 of 10"
    assert written["folded"]["ResNet-20"]["difference"] < 1e-4
    assert "ResNet-20, 32 px, batch 32, 2 threads, ONNX Runtime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(1.0, 0.99, 1.03), "holds"),
        (Interval(1.0, 0.99, 1.04), "undecided"),
        (Interval(1.05, 1.04, 1.06), "does not hold"),
    ],
)
def test_a_bound_is_judged_by_the_interval(interval: Interval, expected: str) -> None:
    assert verdict(interval, 1.03) == expected


def test_openvino_is_a_lane_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_lanes.importlib.util, "find_spec", lambda _: None)
    assert bench_lanes.runtimes() == [Runtime.ONNXRUNTIME]


def test_a_log_is_not_filled_with_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(1000), "x", "step")) == list(range(1000))
    with progress(None, "engine", "step") as bar:
        for step in (0, 5, 2):  # a phase begins anew
            bar.update(step - bar.n)
            assert bar.n == step
    assert capsys.readouterr().err == ""
