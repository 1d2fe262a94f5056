"""Locust runs the locustfile as its users expect: closed and open, in one process and in many, by tags."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtests.known_delays.local import known_delays
from loadtests.local_service import LocalService, held_port, local_server
from loadtests.recording import Stage
from loadtests.results import Results, Turn
from loadtests.schedule import read_schedule
from loadtests.shares import Share
from tests.conftest import ROOT
from tests.loadtests.conftest import delaying

SCHEDULE = "step:150x1,60x1"
EXPECTED = len(list(read_schedule(SCHEDULE).due_s(60, seed=5)))
PERCENTILES = (1, 10, 50, 90, 99, 99.9, 100)


def locust(host: str, results: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--only-summary"]
    command += ["--host", host, "--variant", "resnet20-preact", "--results", str(results), *options]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def the_turn(results: Path) -> Turn:
    (turn,) = Results.read(results).turns
    return turn


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    printed: str
    turn: Turn


@pytest.fixture(scope="module")
def done(delaying_server: LocalService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """The same schedule from one process, and from a master and two workers; two runs that end early, and one in which
    another version takes over. All at once, as most of their time is Locust's start."""
    folder, url = tmp_path_factory.mktemp("locust"), delaying_server.url
    options = ["--schedule", SCHEDULE, "--seed", "5", "--max-lag-ms", "10000"]
    devnull = subprocess.DEVNULL
    successor = known_delays("--variants", "resnet20-preact", "--replaced-after", "20")
    with local_server(delaying) as mortal, successor as replaced, held_port() as master:
        bind = ["--master", f"--master-bind-port={master}", "--master-bind-host=127.0.0.1", "--expect-workers=2"]
        worker = ["-m", "locust", "-f", "loadtests/locustfile.py", "--worker", f"--master-port={master}"]
        runs = {
            "two": locust(url, folder / "two", *options, *bind),
            "one": locust(url, folder / "one", *options),
            "interrupted": locust(
                url, folder / "interrupted", "--tags", "open", "tensors", "--schedule", "constant:50"
            ),
            "replaced": locust(replaced.url, folder / "replaced", "--schedule", "step:50x1"),
            "orphaned": locust(mortal.url, folder / "orphaned", "--schedule", "constant:50", "--image-size", "32x32"),
        }
        workers = [
            subprocess.Popen([sys.executable, *worker], cwd=ROOT, stdout=devnull, stderr=devnull) for _ in range(2)
        ]
        for run in (runs["interrupted"], runs["orphaned"]):
            assert run.stdout is not None
            while "All users spawned" not in (line := run.stdout.readline()):
                assert line
        time.sleep(1)
        runs["interrupted"].send_signal(signal.SIGINT)
        os.kill(mortal.pid, signal.SIGKILL)
        printed = {name: run.communicate(timeout=60)[0] for name, run in runs.items()}
    for process in workers:
        process.wait(20)
    return {name: Done(run.returncode, printed[name], the_turn(folder / name)) for name, run in runs.items()}


@pytest.fixture
def one_and_two(done: dict[str, Done]) -> list[Turn]:
    for run in (done["one"], done["two"]):
        assert run.status == 0, run.printed
        assert f"answered {EXPECTED}, failed 0" in run.printed
    return [done["one"].turn, done["two"].turn]


def test_two_workers_send_what_one_process_sends(one_and_two: list[Turn]) -> None:
    one, two = (turn.recording for turn in one_and_two)
    assert one.answered == two.answered == EXPECTED
    assert (one.statuses, one.sent_bytes) == (two.statuses, two.sent_bytes)
    assert [(turn.incomplete, turn.invalid) for turn in one_and_two] == [("", "")] * 2
    assert one_and_two[0].seconds == pytest.approx(one_and_two[1].seconds, abs=0.1)
    assert 1.8 < one_and_two[0].seconds < 2


def test_what_workers_recorded_merges_to_the_percentiles_of_one_process(one_and_two: list[Turn]) -> None:
    """Of times that the server decides, exactly; of those that a clock measures twice, the number."""
    one, two = (turn.recording for turn in one_and_two)
    infer = [[each.percentile_ms(Stage.INFER, point) for point in PERCENTILES] for each in (one, two)]
    assert infer[0] == infer[1]
    assert len(set(infer[0])) > 2
    for stage in (Stage.TOTAL, Stage.SENT, Stage.LAG):
        assert {each.histograms[stage].get_total_count() for each in (one, two)} == {EXPECTED}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_make_up_the_schedule(count: int) -> None:
    whole = list(enumerate(read_schedule("poisson:50").due_s(3, seed=1)))
    parts = [list(Share("poisson:50", 1, 3, index, count).due()) for index in range(count)]
    assert sorted(arrival for part in parts for arrival in part) == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_ctrl_c_leaves_what_was_measured_and_says_so(done: dict[str, Done]) -> None:
    run = done["interrupted"]
    assert run.status == 1, run.printed
    assert run.turn.incomplete == "stopped before the schedule had ended"
    assert run.turn.recording.answered > 10


def test_a_server_that_dies_ends_the_test_and_leaves_what_was_measured(done: dict[str, Done]) -> None:
    run = done["orphaned"]
    assert run.status == 1, run.printed
    assert "every attempt to connect failed" in run.turn.incomplete
    assert run.turn.incomplete in run.printed
    assert run.turn.recording.answered > 10
    assert run.turn.recording.failures["no answer: ConnectionRefusedError"] > 10


def test_another_version_that_takes_over_is_told(done: dict[str, Done]) -> None:
    run = done["replaced"]
    assert run.status == 1, run.printed
    assert run.turn.recording.versions == {"known-delays": 20, "known-delays-2": run.turn.recording.answered - 20}
    assert "came from its version known-delays-2, not from known-delays, which" in run.turn.incomplete
    assert run.turn.incomplete in run.printed


def test_tags_choose_tensors(done: dict[str, Done]) -> None:
    recording = done["interrupted"].turn.recording
    assert not recording.failures
    assert recording.sent_bytes > 224 * 224 * 3 * recording.answered


def test_options_that_make_no_sense_are_said_so(delaying_server: LocalService, tmp_path: Path) -> None:
    nobody, somebody = "http://127.0.0.1:9", delaying_server.url
    cases = [
        (nobody, ["--schedule", "poisson:-1"], "expected poisson:RATE"),
        (nobody, ["--tags", "open"], "expected poisson:RATE"),
        (nobody, ["--image-size", "32"], "expected WIDTHxHEIGHT"),
        (nobody, ["--images", "nowhere"], "nowhere: no such file or directory, expected a folder of images"),
        (nobody, ["--run-time", "1"], "start the service: make serve"),
        (somebody, ["--run-time", "1", "--variant", "nope"], "serves resnet20-preact, not nope"),
    ]
    runs = [locust(host, tmp_path / "none", *options) for host, options, _ in cases]
    for run, (_, _, said) in zip(runs, cases, strict=True):
        printed, _ = run.communicate(timeout=60)
        assert run.returncode == 2, printed
        assert said in printed
        assert "Traceback" not in printed
