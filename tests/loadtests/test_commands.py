"""`python -m loadtests`: what is measured, kept, concluded and said, against servers whose delays are known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from loadtests.local_service import LocalService
from loadtests.results import Results, Side
from tests.conftest import PAIR
from tests.loadtests.command_line import SHORT, Loadtests, gates

TEN = ("--rounds", "10", "--within-percent", "0.001")


def test_a_slower_variant_is_found_and_not_shipped(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path
) -> None:
    asked = gates(tmp_path, "max_regression_percent = 5\nfailure_rate = 0.5\n")
    done = loadtests(
        "compare", "a", "b", "--host", slower_b.url, *SHORT, *TEN, "--gates", asked, "--out", str(tmp_path)
    )
    assert done.returncode == 1, done.stderr
    assert "do not ship" in done.stdout.lower()
    assert "no difference will be shown" not in done.stderr
    found = Results.read(tmp_path / "results.json")
    assert len(found.turns) == 40 == len((tmp_path / "turns.jsonl").read_text().splitlines())
    assert [turn.side for turn in found.turns[:8]] == [Side(side) for side in "abbabaab"]
    assert found.conditions["targets"]["b"]["variant"] == "b"
    page = (tmp_path / "report.html").read_text()
    assert "do not ship" in page.lower()
    assert "<svg" in page
    assert (tmp_path / "report.md").exists()

    again = loadtests("report", str(tmp_path / "results.json"), "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert "higher" in again.stdout
    lenient = gates(tmp_path, "max_regression_percent = 900\n")
    shipped = loadtests("report", str(tmp_path / "results.json"), "--gates", lenient, "--out", str(tmp_path / "again"))
    assert shipped.returncode == 0, shipped.stderr
    assert "ship" in shipped.stdout.lower()


@pytest.mark.parametrize("level", ["95", "0", "1", "-0.5", "nan"])
def test_a_level_that_is_none_is_refused_before_anything_is_read(loadtests: Loadtests, level: str) -> None:
    done = loadtests("report", "absent.json", "--level", level)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"found {level}, expected a share between 0 and 1" in done.stderr


def test_few_rounds_cannot_tell(loadtests: Loadtests, slower_b: LocalService, tmp_path: Path) -> None:
    asked = gates(tmp_path, "max_regression_percent = 5\n")
    done = loadtests(
        "compare", "a", "b", "--host", slower_b.url, *SHORT, "--rounds", "2", "--gates", asked, "--out", str(tmp_path)
    )
    assert done.returncode == 3, done.stderr
    assert "2 whole rounds" in done.stdout


def test_why_rounds_are_too_few_is_said_once_and_how_long_enough_take(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path
) -> None:
    done = loadtests("compare", "a", "b", "--host", slower_b.url, *SHORT, "--rounds", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("at least 10 are needed") == 1
    assert "10 rounds like these take at least 7 s." in done.stdout  # of 4 turns of 0.12 s, and 0.05 s of warm-up
    assert (tmp_path / "report.md").read_text().count("at least 10 are needed") == 1


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (["--rounds", "1"], "1 of the 10 rounds that an interval needs can be run; it takes --rounds 10"),
        (
            ["--rounds", "1", "--max-seconds", "2"],
            "1 of the 10 rounds that an interval needs can be run; it takes --rounds 10 and --max-seconds 7",
        ),
        (["--max-seconds", "0.1"], "1 of the 10 rounds that an interval needs can be run; it takes --max-seconds 7"),
    ],
)
def test_rounds_that_cannot_suffice_are_said_before_they_begin(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path, limits: list[str], said: str
) -> None:
    done = loadtests("compare", "a", "b", "--host", slower_b.url, *SHORT, *limits, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"no difference will be shown: {said}\n")


def test_what_most_requests_failed_by_is_said_where_they_did(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path
) -> None:
    """By tensors, which a server of known delays does not take."""
    arguments = ["--tensors", *SHORT, "--turns", "1", "--out", str(tmp_path)]
    done = loadtests("run", "a", "--host", slower_b.url, *arguments)
    assert done.returncode == 3, "not one was answered"
    assert re.search(r"! (\d+) of \1 requests to a failed, 100.0%, \1 of them by 404", done.stdout), done.stdout
    assert "requests to a failed, 100.0%" in (tmp_path / "report.md").read_text()


def test_a_late_generator_decides_nothing(loadtests: Loadtests, slower_b: LocalService, tmp_path: Path) -> None:
    arguments = [*SHORT[:-1], "0.0001", "--rounds", "2", "--gates", gates(tmp_path, "max_regression_percent = 900\n")]
    done = loadtests("compare", "a", "b", "--host", slower_b.url, *arguments, "--out", str(tmp_path))
    assert done.returncode == 3, done.stderr
    assert "the generator was late" in done.stdout


def test_two_saved_runs_are_compared_only_under_the_same_conditions(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path
) -> None:
    def run(variant: str, name: str, *more: str) -> str:
        out = tmp_path / name
        done = loadtests("run", variant, "--host", slower_b.url, *SHORT, "--turns", "10", *more, "--out", str(out))
        assert done.returncode == 0, done.stderr
        return str(out / "results.json")

    first, second, other = run("a", "first"), run("b", "second"), run("b", "other", "--seed", "7")
    done = loadtests("compare", first, second, "--out", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    assert "higher" in done.stdout
    refused = loadtests("compare", first, other, "--out", str(tmp_path / "both"))
    assert refused.returncode == 2
    assert "seed: 0 and 7" in refused.stderr


def test_a_capacity_is_searched_drawn_and_joined_to_a_report(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path
) -> None:
    """With an objective that no rate can hold: the search ends soon."""
    arguments = ["--slo-p99-ms", "1", "--first-rate", "4000", "--probe-seconds", "0.1", "--max-lag-ms", "10000"]
    done = loadtests("capacity", "a", "--host", slower_b.url, *arguments, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "capacity.json").read_text())["capacities"]
    assert found["rate_rps"] is None
    assert not any(probe["holds"] for probe in found["probes"])
    assert "objective 1 ms" in done.stderr


def test_a_search_whose_time_is_up_goes_on_to_the_next_variant_and_knows_no_capacity(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path
) -> None:
    arguments = ["--slo-p99-ms", "9000", "--first-rate", "2000", "--probe-seconds", "0.2", "--max-lag-ms", "10000"]
    done = loadtests(
        "capacity", "a", "b", "--host", slower_b.url, *arguments, "--max-seconds", "0.01", "--out", str(tmp_path)
    )
    assert done.returncode == 3, done.stderr
    found = json.loads((tmp_path / "capacity.json").read_text())
    assert [(each["variant"], len(each["probes"])) for each in found["capacities"]] == [("a", 1), ("b", 1)]
    assert done.stderr.count("the time was up after 1 probe") == 2
    assert "the time was up after 1 probe" in (tmp_path / "capacity.md").read_text()


def test_the_real_service_is_compared_by_a_load_that_was_found(
    loadtests: Loadtests, service: LocalService, tmp_path: Path
) -> None:
    arguments = ["--host", service.url, "--rounds", "2", "--turn-seconds", "0.3", "--out", str(tmp_path)]
    done = loadtests("compare", *PAIR, *arguments)
    assert done.returncode == 0, done.stderr
    assert "--schedule poisson:" in done.stderr
    found = Results.read(tmp_path / "results.json")
    assert found.conditions["schedule"].startswith("poisson:")
    assert sum(turn.recording.failed for turn in found.turns) == 0
    assert sum(turn.recording.answered for turn in found.turns) > 0
    assert found.turns[0].recording.percentile_ms("infer", 50) is not None
    version = found.conditions["targets"]["b"]["served"]["version"]
    assert version.startswith("onnxruntime-fp32-")
    assert {name for turn in found.turns if turn.side is Side.B for name in turn.recording.versions} == {version}


def test_tensors_reach_the_real_service(loadtests: Loadtests, service: LocalService, tmp_path: Path) -> None:
    arguments = ["--users", "2", "--tensors", "--turns", "1", "--turn-seconds", "0.3"]
    done = loadtests("run", PAIR[0], "--host", service.url, *arguments, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (turn,) = Results.read(tmp_path / "results.json").turns
    assert turn.recording.answered > 0
    assert turn.recording.failed == 0
    assert turn.recording.versions.total() == turn.recording.answered


def test_a_report_of_nothing_leaves_nothing(loadtests: Loadtests, tmp_path: Path) -> None:
    done = loadtests("report", str(tmp_path / "nope.json"), "--out", str(tmp_path / "report"))
    assert done.returncode == 2
    assert "nope.json" in done.stderr
    assert not (tmp_path / "report").exists()


def test_a_file_that_is_not_there_is_named_with_what_was_expected(
    loadtests: Loadtests, slower_b: LocalService, tmp_path: Path
) -> None:
    absent = str(tmp_path / "absent")
    cases = {
        "results.json that a run or a comparison left": ["report", absent],
        "a TOML file of bounds": ["report", absent, "--gates", absent],
        "capacity.json that a search left": ["report", absent, "--capacity", absent],
        "a folder of images": ["run", "a", "--host", slower_b.url, "--images", absent],
        "seconds, one a line": ["run", "a", "--host", slower_b.url, "--schedule", f"trace:{absent}"],
    }
    for expected, arguments in cases.items():
        done = loadtests(*arguments)
        assert done.returncode == 2
        assert f"{absent}: no such file or directory, expected " in done.stderr
        assert expected in done.stderr
        assert "Errno" not in done.stderr
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    binary = str(tmp_path / "binary")
    for expected, arguments in cases.items():
        if expected != "a folder of images":
            done = loadtests(*(argument.replace(absent, binary) for argument in arguments))
            assert done.returncode == 2
            assert re.search(rf"{binary}: no text \(.*\), expected .*{re.escape(expected)}", done.stderr), done.stderr


def test_what_cannot_be_measured_is_an_error_with_the_next_command(
    loadtests: Loadtests, service: LocalService, tmp_path: Path
) -> None:
    bad = gates(tmp_path, "p98_ms = 5\n")
    cases = {
        "make serve": ["compare", *PAIR, "--host", "http://127.0.0.1:9"],
        "expected VARIANT or VARIANT@http://": ["compare", *PAIR, "--host", "localhost:9"],
        f"serves {', '.join(PAIR)}, not resnet99": ["run", "resnet99", "--host", service.url],
        "p98_ms: no such gate": ["compare", *PAIR, "--host", service.url, "--gates", bad],
        "poisson:RATE": ["run", PAIR[0], "--host", service.url, "--schedule", "poisson:often"],
        "expected two variants, or two saved runs": ["compare", PAIR[0], "results.json", "--host", service.url],
    }
    for said, arguments in cases.items():
        done = loadtests(*arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
