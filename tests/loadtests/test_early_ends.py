"""What `python -m loadtests` leaves where a run ends before its time: a dead server, another version, a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtests.local_service import LocalService
from loadtests.results import Results
from tests.conftest import ROOT
from tests.loadtests.command_line import SHORT, Loadtests, gates, known_delays


@pytest.fixture
def interrupted(slower_b: LocalService, tmp_path: Path) -> Iterator[Callable[[LocalService], subprocess.Popen[str]]]:
    """A long comparison that has begun."""

    def begin(server: LocalService) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "loadtests",
            "compare",
            "a",
            "b",
            "--host",
            server.url,
            *SHORT,
            "--rounds",
            "900",
        ]
        running = subprocess.Popen(
            [*command, "--within-percent", "0.001", "--out", str(tmp_path)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        begun.append(running)
        turns = tmp_path / "turns.jsonl"
        deadline = time.monotonic() + 60
        while not turns.exists() or turns.read_text().count("\n") < 6:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return running

    begun: list[subprocess.Popen[str]] = []
    yield begin
    for running in begun:
        running.kill()
        running.communicate()


def test_a_server_that_dies_ends_the_run_and_what_was_measured_is_kept(
    interrupted: Callable[[LocalService], subprocess.Popen[str]], tmp_path: Path
) -> None:
    with known_delays("--delay", "constant:8") as mortal:
        running = interrupted(mortal)
        subprocess.run(["kill", "-9", str(mortal.pid)], check=True)
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 4, output
    assert "failed for 2 s" in output
    found = Results.read(tmp_path / "results.json")
    assert len(found.turns) >= 6
    assert "failed for 2 s" in found.conditions["incomplete"]
    assert sum(turn.recording.answered for turn in found.turns) > 0
    assert "failed for 2 s" in (tmp_path / "report.html").read_text()


def test_another_version_that_takes_over_ends_the_run_and_decides_nothing(loadtests: Loadtests, tmp_path: Path) -> None:
    """The turns before it are kept, and compared."""
    asked = gates(tmp_path, "failure_rate = 0.5\n")
    with known_delays("--delay", "constant:8", "--replaced-after", "900") as replaced:
        done = loadtests(
            "compare", "a", "b", "--host", replaced.url, *SHORT, "--rounds", "900", "--within-percent", "0.001",
            "--gates", asked, "--out", str(tmp_path),
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "cannot tell" in done.stdout.lower()
    said = "came from its version known-delays-2, not from known-delays, which"
    assert said in done.stderr
    assert said in (tmp_path / "report.html").read_text()
    found = Results.read(tmp_path / "results.json")
    *before, last = found.turns
    assert said in last.incomplete
    assert len(before) > 10
    assert not any(turn.incomplete or turn.invalid for turn in before)
    assert all(turn.recording.versions.keys() == {"known-delays"} for turn in before)
    assert "known-delays-2" in last.recording.versions


def test_a_search_ends_where_another_version_takes_over(loadtests: Loadtests, tmp_path: Path) -> None:
    arguments = ["--slo-p99-ms", "900", "--first-rate", "400", "--probe-seconds", "0.1", "--max-lag-ms", "10000"]
    with known_delays("--delay", "constant:8", "--replaced-after", "900") as replaced:
        done = loadtests("capacity", "a", "b", "--host", replaced.url, *arguments, "--out", str(tmp_path))
    assert done.returncode == 4, done.stderr
    (found,) = json.loads((tmp_path / "capacity.json").read_text())["capacities"]
    assert "came from its version known-delays-2" in found["incomplete"]
    assert found["limited_by"] == "service"


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_ctrl_c_and_a_request_to_end_keep_what_was_measured(
    interrupted: Callable[[LocalService], subprocess.Popen[str]],
    slower_b: LocalService,
    tmp_path: Path,
    signals: list[signal.Signals],
) -> None:
    """`timeout` sends its own twice."""
    running = interrupted(slower_b)
    for each in signals:
        running.send_signal(each)
        time.sleep(0.05)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130, output
    assert "Traceback" not in output
    found = Results.read(tmp_path / "results.json")
    assert len(found.turns) >= 6
    assert "interrupted" in found.conditions["incomplete"]
    assert (tmp_path / "report.html").exists()
