"""The serving benchmark: what wrk printed is read, verdicts follow from intervals, and a run measures real servers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from loadtests.ratios import Ratio
from loadtests.serving_bench.__main__ import main
from loadtests.serving_bench.judge import FAILS, HOLDS, UNDECIDED, failure_rates, judge, ours_over, throughput
from loadtests.serving_bench.lanes import Opened
from loadtests.serving_bench.parity import difference, strangers
from loadtests.serving_bench.peers import ceiling
from loadtests.serving_bench.peers.ceiling import loop
from loadtests.serving_bench.peers.graph import Graph
from loadtests.serving_bench.picture import main as draw_results
from loadtests.serving_bench.plan import Cell, Lane, PlanError, read_cell, read_lanes, start_of, turns_of
from loadtests.serving_bench.report import as_text, summary
from loadtests.serving_bench.turns import Turn, append, read
from loadtests.serving_bench.wrk import Load, WrkError, parse
from tests.conftest import BENTOML_HOME, ROOT

SMALL, LARGE = read_cell("resnet20:fp32:16"), read_cell("resnet50:fp32:16")
WRK_SAID = """Running 1s test @ http://127.0.0.1:8765/classify
Requests/sec:  19699.73
{"requests": 19708, "duration_us": 1000420, "latency_p50_us": 768, "latency_p99_us": 1563, "errors": \
{"connect": 0, "read": 2, "write": 0, "timeout": 0, "status": 7}}
"""


def test_wrk_is_read_in_microseconds_with_its_failures() -> None:
    load = parse(WRK_SAID)
    assert (load.requests, load.seconds, load.p50_us, load.p99_us) == (19708, 1.00042, 768, 1563)
    assert load.failures == {"read": 2, "status": 7}


@pytest.mark.parametrize("said", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", '{"requests": 1}\n'])
def test_what_wrk_does_not_measure_is_an_error(said: str) -> None:
    with pytest.raises(WrkError, match="no measurement"):
        parse(said)


def turns(cell: Cell, ours: float, *, failures: int = 0) -> list[Turn]:
    """Twelve rounds: ours takes `ours` times what the other lanes take, give or take 2 %; bare starlette 50 us."""
    generator = np.random.default_rng(0)
    cpu_us = {Lane.STARLETTE: 50.0, Lane.CEILING_SPREAD: 1200.0}
    made = []
    for number in range(12):
        for lane in Lane:
            factor = (ours if lane is Lane.OURS else 1.0) * float(generator.normal(1, 0.02))
            cpu_s = cpu_us.get(lane, 1000.0) * factor * 1000 / 1e6
            made.append(
                Turn(
                    cell=str(cell),
                    round=number,
                    lane=lane,
                    requests=1000,
                    failures={"status": failures} if failures and lane is not Lane.STARLETTE else {},
                    seconds=factor,
                    p50_us=1000.0,
                    p99_us=2500.0 * factor,
                    cpu_s=cpu_s,
                    others_cpu_s=0.0,
                    rss_mb=100.0,
                    idle_share=0.0,
                )
            )
    return made


@pytest.mark.parametrize(
    ("cell", "claim", "factors"),
    [
        (LARGE, "throughput over the ceiling's", {HOLDS: 1.0, UNDECIDED: 1 / 0.95, FAILS: 1.2}),
        (SMALL, "CPU a request over the ceiling's", {HOLDS: 1.2, UNDECIDED: 1.3, FAILS: 1.4}),
        (SMALL, "CPU a request beyond", {HOLDS: 1.0, UNDECIDED: 1.11, FAILS: 1.3}),
        (SMALL, "throughput over the best peer's", {HOLDS: 0.7, UNDECIDED: 0.8, FAILS: 1.0}),
        (LARGE, "throughput over the best peer's", {HOLDS: 1.0, FAILS: 1.2}),
        (LARGE, "p99 over the best peer's", {HOLDS: 0.8, UNDECIDED: 1.0, FAILS: 1.2}),
        (SMALL, "p99 over p50", {HOLDS: 1.0, UNDECIDED: 1.2, FAILS: 1.4}),
    ],
)
def test_a_verdict_needs_the_whole_interval(cell: Cell, claim: str, factors: dict[str, float]) -> None:
    for verdict, factor in factors.items():
        found = judge(cell, turns(cell, factor))
        (measure,) = [each for each in found if each.claim.startswith(claim)]
        assert measure.verdict == verdict, measure


def test_an_interval_holds_what_differs_from_start_to_start() -> None:
    """Starts differ by ten times what rounds do: twelve rounds of one start say too much."""

    def over_fastapi(starts: int) -> Ratio:
        found = [replace(turn, start=start_of(turn.round, 12, starts)) for turn in turns(SMALL, 1.0)]
        slow = [
            replace(turn, seconds=turn.seconds * (1 + 0.2 * (turn.start % 2))) if turn.lane is Lane.OURS else turn
            for turn in found
        ]
        ratio = ours_over(slow, Lane.FASTAPI, throughput)
        assert ratio is not None
        return ratio

    one, six = over_fastapi(1), over_fastapi(6)
    assert one.high - one.low < 0.1
    assert six.low < 0.87
    assert six.high > 0.97


def test_few_rounds_decide_nothing() -> None:
    few = [turn for turn in turns(SMALL, 1.0) if turn.round < 5]
    verdicts = [measure.verdict for measure in judge(SMALL, few)]
    assert len(verdicts) == 5
    assert all(verdict.startswith(UNDECIDED) for verdict in verdicts)


def test_lanes_that_fail_are_shown_and_not_judged() -> None:
    failing = turns(SMALL, 1.0, failures=20)
    assert failure_rates(failing)[Lane.OURS] == 0.02
    (said,) = judge(SMALL, failing)
    assert "2.0% of our requests failed" in said.verdict
    assert " 240" in as_text(summary(SMALL, failing, {}))


def test_the_table_has_every_lane_its_ratio_and_who_was_left_out() -> None:
    shown = [turn for turn in turns(SMALL, 1.1) if turn.lane is not Lane.LITSERVE]
    text = as_text(summary(SMALL, shown, {Lane.LITSERVE: "0.jpg: [3] instead of [4]"}))
    assert all(lane in text for lane in Lane)
    assert "litserve         not measured: 0.jpg" in text
    assert text.count("[") >= 3 * 5


def test_the_picture_has_every_cell_and_every_lane_that_works(tmp_path: Path) -> None:
    cells = [summary(cell, turns(cell, 1.2), {}) for cell in (SMALL, LARGE)]
    few = [turn for turn in turns(SMALL, 1.0) if turn.round < 3 or turn.lane in {Lane.OURS, Lane.FASTAPI}]
    cells.append(summary(read_cell("resnet20:int8:16"), few, {}))  # FastAPI alone has an interval
    results = tmp_path / "serving.json"
    results.write_text(json.dumps({"cells": cells}))
    drawn = [tmp_path / name / "serving.svg" for name in ("a", "b")]
    for path in drawn:
        path.parent.mkdir()
        assert draw_results([str(results), "--out", str(path)]) == 0
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    text = drawn[0].read_text()
    said = set(re.findall(r">([^<>]+)</text>", text))
    assert {str(SMALL), str(LARGE), *(set(Lane) - {Lane.OURS, Lane.STARLETTE})} <= said
    assert Lane.STARLETTE not in said


CELLS = [f"{precision}-{connections}" for precision in ("fp32", "int8") for connections in (1, 16, 64)]


@pytest.mark.parametrize(("name", "cells"), [("serving-resnet20", CELLS), ("serving-resnet20-16", ["fp32-16"])])
def test_the_documents_show_what_was_measured(name: str, cells: list[str], tmp_path: Path) -> None:
    results = [str(ROOT / "docs" / "measurements" / f"serving-resnet20-{cell}-xeon.json") for cell in cells]
    drawn = tmp_path / f"{name}.svg"
    assert draw_results([*results, "--out", str(drawn)]) == 0
    assert drawn.read_text() == (ROOT / "docs" / "images" / drawn.name).read_text()


def test_the_same_cell_of_two_runs_is_told_apart_by_their_names(tmp_path: Path) -> None:
    for name in ("epyc", "xeon"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"cells": [summary(SMALL, turns(SMALL, 1.2), {})]}))
    out = tmp_path / "new" / "serving.svg"
    assert draw_results([str(tmp_path / "epyc.json"), str(tmp_path / "xeon.json"), "--out", str(out)]) == 0
    assert {f"{SMALL}, epyc", f"{SMALL}, xeon"} <= set(re.findall(r">([^<>]+)</text>", out.read_text()))


@pytest.mark.parametrize(
    "content", ["{}", "no JSON", "[]", '{"cells": []}', '{"cells": [{"ours_over": {"fastapi": {"p99": null}}}]}']
)
def test_a_picture_of_something_else_is_an_error(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    other.write_text(content)
    assert draw_results([str(other), "--out", str(tmp_path / "serving.svg")]) == 2
    said = capsys.readouterr().err
    assert str(other) in said
    assert "make bench-serving" in said
    assert list(tmp_path.iterdir()) == [other]


def test_a_picture_is_an_svg_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        draw_results(["serving.json", "--out", "serving.png"])
    assert "ends in .svg" in capsys.readouterr().err


def test_rounds_are_shared_out_among_starts() -> None:
    assert [start_of(number, 5, 2) for number in range(5)] == [0, 0, 0, 1, 1]
    assert [start_of(number, 40, 8) for number in (0, 4, 5, 39)] == [0, 0, 1, 7]


def test_lanes_take_turns_at_being_first() -> None:
    lanes = read_lanes("ceiling,starlette")
    assert lanes == (Lane.OURS, Lane.STARLETTE, Lane.CEILING)
    order = list(turns_of(3, lanes))
    assert [lane for _, lane in order[::3]] == list(lanes)
    assert {lane for number, lane in order if number == 1} == set(lanes)


@pytest.mark.parametrize("text", ["resnet18:fp32:16", "resnet20:fp16:16", "resnet20:fp32:0", "resnet20"])
def test_an_unknown_cell_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="resnet20"):
        read_cell(text)


def test_another_answer_is_a_difference() -> None:
    ours = [{"index": 3, "probability": 0.9}, {"index": 5, "probability": 0.1}]
    assert difference(ours, ours) is None
    assert difference([{"index": 3, "probability": 0.90005}, ours[1]], ours) is None
    assert "0.8" in str(difference([{"index": 3, "probability": 0.8}, ours[1]], ours))
    assert "instead of" in str(difference(ours[::-1], ours))
    assert "instead of" in str(difference([], ours))


@dataclass
class Fake:
    """A lane that answers everything alike, or with an error."""

    answer: list[dict[str, Any]] | OSError
    tree: Any = None

    def predictions(self, jpeg: Path) -> list[dict[str, Any]]:
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer

    def load(self, jpegs: Sequence[Path], seconds: int, connections: int) -> Load:
        raise AssertionError("nothing is measured here")


def test_who_answers_otherwise_is_left_out_with_the_reason() -> None:
    ours = [{"index": 3, "probability": 0.9}]
    lanes: dict[Lane, Opened] = {
        Lane.OURS: Fake(ours), Lane.STARLETTE: Fake([]), Lane.FASTAPI: Fake(ours),
        Lane.LITSERVE: Fake([{"index": 4, "probability": 0.9}]), Lane.BENTOML: Fake(OSError("500")),
    }  # fmt: skip
    reasons = strangers(lanes, [Path("0.jpg")])
    assert reasons == {Lane.LITSERVE: "0.jpg: [4] instead of [3]", Lane.BENTOML: "0.jpg: OSError: 500"}


def test_a_log_that_was_cut_off_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "turns.jsonl"
    first, second, *_ = turns(SMALL, 1.0)
    append(log, first)
    with log.open("a") as file:
        file.write('{"cell": "resnet20:fp32:16", "rou')
    assert list(read(log)) == [first]
    append(log, second)
    assert list(read(log)) == [first, second]


def test_without_wrk_there_is_one_line_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "apt install wrk" in said
    assert said.count("\n") == 1


@pytest.mark.wrk
def test_a_run_measures_real_servers_and_resumes(
    exported_pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant, _, version = exported_pair[1].partition(":")
    home = tmp_path / "home"  # of its own: the newest is taken, and other tests make newer ones
    shutil.copytree(Path(BENTOML_HOME.name) / "models" / variant / version, home / "models" / variant / version)
    chosen = ["--cells", "resnet20:fp32:2", "--lanes", "ours,starlette,ceiling", "--rounds", "2", "--starts", "2"]
    arguments = [*chosen, "--turn-seconds", "1", "--out", str(tmp_path), "--bentoml-home", str(home)]
    assert main(arguments) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "serving.json").read_text())
    assert report["conditions"]["artifacts"] == {"resnet20:fp32": exported_pair[1]}
    assert (tmp_path / "serving.svg").exists()
    (cell,) = report["cells"]
    assert cell["not_measured"] == {}
    assert cell["starts"] == 2
    assert set(cell["lanes"]) == {"ours", "starlette", "ceiling"}
    for lane in cell["lanes"].values():
        assert lane["throughput_rps"] > 0
        assert 0 < lane["latency_p50_ms"] <= lane["latency_p99_ms"]
        assert lane["cpu_us"] > 0
        assert lane["failures"] == {}
    log = (tmp_path / "turns.jsonl").read_text()
    assert main([*arguments, "--resume"]) == 0
    assert (tmp_path / "turns.jsonl").read_text() == log
    assert main([*arguments, "--resume", "--threads", "63"]) == 2
    assert "threads was" in capsys.readouterr().err


class Instant:
    """A graph that takes no time; the third inference fails."""

    inferred = 0

    def pixels(self, encoded: bytes) -> bytes:
        return encoded

    def logits(self, pixels: bytes) -> None:
        self.inferred += 1
        if self.inferred == 3:
            raise RuntimeError(pixels.decode())


def test_the_ceiling_counts_what_ended_in_time_alone() -> None:
    """A server's client leaves too when the time is up."""
    kept: list[float] = []
    loop(cast(Graph, Instant()), [b"a"], 0, float("-inf"), kept.append)
    assert kept == []
    with pytest.raises(RuntimeError, match=r"^a$"):
        loop(cast(Graph, Instant()), [b"a", b"b"], 0, float("inf"), kept.append)
    assert len(kept) == 2


def test_a_turn_in_which_a_thread_of_the_ceiling_failed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[dict[str, Any]] = []
    monkeypatch.setattr(ceiling, "reply", replies.append)
    with pytest.raises(RuntimeError, match=r"^a$"):
        ceiling.work(cast(Graph, Instant()), [b"a"], 1, 1)
    with pytest.raises(RuntimeError, match=r"^no image in 0 s; make turns longer$"):
        ceiling.work(cast(Graph, Instant()), [b"a"], 0, 1)
    assert replies == []


def test_the_edge_alone_is_measured_over_a_bare_starlette(exported_pair: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "edge.json"
    command = [sys.executable, "-m", "loadtests.serving_bench.peers.edge", "--model", exported_pair[1]]
    subprocess.run([*command, "--rounds", "2", "--out", str(out)], cwd=ROOT, check=True, capture_output=True)
    result = json.loads(out.read_text())
    assert result["medians"].keys() == {"ours", "starlette", "ours again"}
    assert min(result["medians"].values()) > 0
    assert result["rounds"] == 2
