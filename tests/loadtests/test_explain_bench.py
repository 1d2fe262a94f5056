"""The benchmark of heat maps asks real services, and its ratios are of what it measured."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from loadtests import explain_bench
from loadtests.local_service import LocalService
from tests.conftest import PAIR


def test_it_measures_every_lane(
    exported_pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "explain.json"
    assert explain_bench.main(["--variant", PAIR[0], "--rounds", "6", "--requests", "2", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["lanes_ms"].keys() == set(explain_bench.LANES)
    assert all(latency > 0 for latency in result["lanes_ms"].values())
    assert all(ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in result["ratios"].values())
    assert "explain over classify: " in capsys.readouterr().out


def test_an_answer_that_is_a_refusal_is_not_measured(service: LocalService) -> None:
    with ExitStack() as stack:
        ask = explain_bench.asking(stack, service.url, "/classify?variant=other", b"x")
        with pytest.raises(RuntimeError, match="404"):
            ask()
