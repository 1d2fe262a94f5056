"""The comparison measures what there is, counts failures, and claims no difference that its control shows too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from loadtests.local_service import LocalService
from loadtests.report import as_text, summary
from loadtests.turns import Plan, Ratio, Turn, ratio, verdict
from tests.conftest import PAIR, ROOT

PLAN = Plan("http://localhost", PAIR, users=2, rounds=10, turn_s=1)


def turns(second: float, failures: int = 0) -> list[Turn]:
    """Ten rounds around 10 ms, the second lane's times `second`."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(10):
        for lane, factor in enumerate((1.0, second, 1.0)):
            latencies = tuple(10 * factor * generator.normal(1, 0.05, 50))
            made.append(Turn(number, lane, PLAN.lanes[lane], 1.0, latencies, ("503: no",) * (failures if lane else 0)))
    return made


@pytest.mark.parametrize(("factor", "said"), [(1.5, "higher"), (0.7, "lower"), (1.0, "no difference shown")])
def test_a_difference_is_told_from_none(factor: float, said: str) -> None:
    measured, control = (ratio(turns(factor), lane, lambda turn: turn.p50_ms) for lane in (1, 2))
    assert measured is not None
    assert measured.low <= factor <= measured.high
    assert verdict(measured, control) == said


def test_a_difference_that_the_control_shows_too_is_none() -> None:
    assert verdict(Ratio(1.05, 1.03, 1.07), Ratio(1.02, 0.99, 1.04)) == "no difference shown"
    assert verdict(Ratio(1.05, 1.05, 1.07), Ratio(1.02, 0.99, 1.04)) == "higher"
    assert "too few rounds" in verdict(None, None)
    assert ratio(turns(1.0)[:15], 1, lambda turn: turn.p50_ms) is None


def test_the_table_shows_both_orderings_with_percentiles_and_failures() -> None:
    variant = {"version": "v", "runtime": "r", "precision": "fp32", "trained": True, "accuracy": {"top1": 0.9}}
    variant["training_accuracy"] = None
    result = summary(PLAN, turns(1.5, failures=2), dict.fromkeys(PAIR, variant))
    assert "not judged" in result["ratios"]["throughput"]["verdict"]
    assert summary(PLAN, turns(1.5), dict.fromkeys(PAIR, variant))["ratios"]["p50 latency"]["verdict"] == "higher"
    assert [lane["failures"] for lane in result["lanes"]] == [0, 20, 20]
    assert result["lanes"][0]["requests"] == 500
    assert result["lanes"][0]["latency_p50_ms"] == pytest.approx(10, rel=0.02)
    assert result["lanes"][1]["latency_p99_ms"] == pytest.approx(15 * 1.12, rel=0.05)
    text = as_text(result)
    assert re.search(r"p50 latency, resnet20-preact / resnet20-postact: 1\.(49|50|51)", text)
    assert "resnet20-preact: 20 x 503: no" in text


class Slow(BaseHTTPRequestHandler):
    """Stands for a service whose second variant takes four times as long and whose every tenth answer fails."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    seconds: ClassVar = {PAIR[0]: 0.005, PAIR[1]: 0.02}
    answered: ClassVar = 0

    def do_GET(self) -> None:
        keys = ("version", "runtime", "precision", "accuracy", "training_accuracy")  # what the comparison reads
        self.answer(200, {"variants": [{"variant": name, "trained": True, **dict.fromkeys(keys)} for name in PAIR]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        variant = self.path.partition("variant=")[2]
        time.sleep(self.seconds[variant])
        Slow.answered += 1
        self.answer(503 if Slow.answered % 10 == 0 else 200, {"variant": variant})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow_service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests", "compare", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_slower_variant_and_failing_answers_are_reported(slow_service: str, tmp_path: Path) -> None:
    done = compare(*PAIR, "--host", slow_service, "--rounds", "6", "--turn-seconds", "0.3", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert result["ratios"]["p50 latency"]["ratio"]["median"] > 1.5
    assert "of the requests failed" in result["ratios"]["p50 latency"]["verdict"]
    for lane in result["lanes"]:
        assert lane["requests"] > 0
        assert lane["failures"] > 0
        assert next(iter(lane["failure_reasons"])).startswith("503")
    assert "<svg" in (tmp_path / "comparison.html").read_text()
    assert len((tmp_path / "turns.jsonl").read_text().splitlines()) == 18


def test_the_real_service_is_compared_without_failures(service: LocalService, tmp_path: Path) -> None:
    done = compare(*PAIR, "--host", service.url, "--rounds", "3", "--turn-seconds", "0.3", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert [lane["failures"] for lane in result["lanes"]] == [0, 0, 0]
    assert result["conditions"]["rounds_done"] == 3
    assert result["lanes"][1]["version"].startswith("onnxruntime-fp32-")


def test_locust_itself_runs_the_locustfile(service: LocalService) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--only-summary"]
    command += ["--host", service.url, "--users", "2", "--run-time", "5", "--variant", PAIR[1]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert PAIR[1] in done.stderr + done.stdout


def test_a_service_that_is_not_there_or_lacks_the_variant_is_an_error(service: LocalService) -> None:
    absent = compare(*PAIR, "--host", "http://127.0.0.1:9")
    assert absent.returncode == 2
    assert "make serve" in absent.stderr
    assert "expected http://" in compare(*PAIR, "--host", "localhost:9").stderr
    assert "Traceback" not in compare(*PAIR, "--host", "http://localhost:abc").stderr
    other = compare(PAIR[0], "resnet50-preact", "--host", service.url)
    assert other.returncode == 2
    assert "not resnet50-preact" in other.stderr
