"""The benchmark of the generator runs, and its verdict follows from what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def test_the_generator_is_measured_beside_locusts_own_client(tmp_path: Path) -> None:
    out = tmp_path / "generator.json"
    command = [sys.executable, "-m", "loadtests.generator_bench", "--rounds", "1", "--turn-seconds", "0.1"]
    done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert out.exists(), done.stderr
    result = json.loads(out.read_text())
    (found,) = result["rounds"]
    assert result["fast_http_user_rps"] == max(found["closed_rps"].values()) > 0
    on_time = [rung["rate_rps"] for rung in found["rungs"] if rung["holds"]]
    assert result["on_time_rps"] == max(on_time, default=0)
    assert result["ratio"] == pytest.approx(result["on_time_rps"] / result["fast_http_user_rps"])
    assert result["holds"] == (result["ratio"] >= result["bound"])
    assert done.returncode == (0 if result["holds"] else 1)
