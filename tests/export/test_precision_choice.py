"""`--precision auto`: what it takes, and what it asks for first."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.__main__ import main
from export.artifact import Precision
from export.verify import MOST_POINTS_LOST
from tests.conftest import PAIR
from tests.export.test_artifact import exported


def test_precision_auto_takes_the_fastest_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On labelled data, by ONNX Runtime: int8 of the shipped network is faster; with an impossible gate it is fp32."""
    from tests.models.test_data import write_batches

    data = tmp_path / "cifar-10-batches-py"
    data.mkdir()
    write_batches(data)
    arguments = [PAIR[1], "--precision", "auto", "--data", str(data)]
    with monkeypatch.context() as impossible:
        impossible.setitem(MOST_POINTS_LOST, Precision.INT8, -101.0)
        strict, _ = exported(arguments, capsys)
    assert strict.startswith("onnxruntime-fp32-")
    capsys.readouterr()
    assert main([*arguments, "--most-points-lost", "100"]) == 0
    said = capsys.readouterr()
    assert "int8 / fp32 in time " in said.err
    chosen = said.out.partition("onnxruntime-")[2].partition("-")[0]
    assert f"{chosen} is the fastest that passes" in said.err
