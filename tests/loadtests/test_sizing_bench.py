"""The benchmark of sizes starts real services of those sizes, and keeps every round as it ends."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtests import sizing_bench
from loadtests.leaving import workers
from loadtests.local_service import ServiceError
from loadtests.serving_bench.wrk import Load
from loadtests.sizes import FAILED, Lane, Size, default_sizes, open_lanes, read_sizes
from tests.conftest import PAIR, ROOT

ROUND = Load(requests=100, seconds=1.0, p50_us=1e3, p99_us=2e3, failures={})


def options(tmp_path: Path, sizes: str, rounds: int) -> list[str]:
    return [PAIR[0], "--sizes", sizes, "--connections", "2", "--rounds", str(rounds), "--out", str(tmp_path / "s.json")]


@pytest.mark.parametrize("text", ["4", "0x2", "2x", "ax2", "1x2,1x2", "-1x2", ""])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected WORKERSxTHREADS|once"):
        read_sizes(text)


@pytest.mark.parametrize(
    ("cores", "sizes"),
    [(1, [(1, 1)]), (2, [(1, 2), (2, 1)]), (6, [(1, 6), (3, 2)]), (16, [(1, 16), (4, 4), (8, 2)])],
)
def test_the_default_sizes_are_few(monkeypatch: pytest.MonkeyPatch, cores: int, sizes: list[tuple[int, int]]) -> None:
    monkeypatch.setattr("loadtests.sizes.usable_cores", lambda: cores)
    assert default_sizes() == tuple(Size(*size) for size in sizes)


def test_a_lane_whose_models_did_not_open_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a GPU has no memory left; the words are the service's."""
    assert FAILED in (ROOT / "serving" / "service.py").read_text()

    @contextmanager
    def begun_in_vain(**_: object) -> Iterator[object]:
        yield SimpleNamespace(begun=lambda: 1, log=lambda: f"{FAILED} what it is to serve, and ends: out of memory")

    monkeypatch.setattr("loadtests.sizes.local_service", begun_in_vain)
    with pytest.raises(ServiceError, match="2x1: not every worker opened any"), ExitStack() as stack:
        open_lanes(stack, "any", (Size(2, 1),))


@pytest.mark.usefixtures("exported_pair")
def test_a_lane_is_open_once_all_its_workers_are() -> None:
    with ExitStack() as stack:
        (lane,) = open_lanes(stack, PAIR[0], (Size(2, 1),)).values()
        assert len(workers(lane.tree.processes[0].pid)) == 2
        assert lane.ready_s > 0


@pytest.mark.usefixtures("exported_pair")
def test_where_one_does_not_open_none_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_INTRA_OP_THREADS", "none")
    with pytest.raises(ServiceError, match="SERVING_INTRA_OP_THREADS"), ExitStack() as stack:
        open_lanes(stack, PAIR[0], (Size(1, 1), Size(1, 2)))


@pytest.mark.wrk
@pytest.mark.usefixtures("exported_pair")
def test_it_measures_every_size_and_the_first_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizing_bench.main(options(tmp_path, "1x1,1x2", 1)) == 0
    result = json.loads((tmp_path / "s.json").read_text())
    assert list(result["lanes"]) == ["1x1", "1x2", "1x1 again"]
    assert all(lane["throughput_rps"] > 0 and lane["cpu_us"] > 0 for lane in result["lanes"].values())
    assert not any(lane["failures"] for lane in result["lanes"].values())
    assert result["variant"] == PAIR[0]
    assert "1x1 again" in capsys.readouterr().out


def test_what_is_cut_off_keeps_the_rounds_that_were_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported_pair: tuple[str, str]
) -> None:
    """The services are real; the client is cut off in the second round."""
    asked = 0

    def cut_off(lane: Lane, *_: object) -> Load:
        nonlocal asked
        asked += 1
        if asked > 5:  # two warm-ups, a round of two, and half of the next
            raise KeyboardInterrupt
        return ROUND

    monkeypatch.setattr(sizing_bench, "load", cut_off)
    assert sizing_bench.main(options(tmp_path, "1x1", 4)) == 130
    result = json.loads((tmp_path / "s.json").read_text())
    assert (result["rounds"], len(result["turns"])) == (1, 2)
    assert "after 1 of 4 rounds" in capsys.readouterr().err
