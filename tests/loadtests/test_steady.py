"""The steady open workload: against the real service, and against nobody."""

from __future__ import annotations

import json
import subprocess
import sys

from loadtests.local_service import LocalService
from tests.conftest import ROOT


def steady(url: str) -> dict[str, object]:
    command = [sys.executable, "-m", "loadtests.steady", url, "--rate", "50", "--seconds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_request_to_a_service_is_answered(service: LocalService) -> None:
    found = steady(service.url)
    assert int(str(found["requests"])) > 20
    assert (found["failed"], found["by"], found["first_failure_s"]) == (0, {}, None)


def test_every_request_to_nobody_fails_and_says_why(port: int) -> None:
    found = steady(f"http://127.0.0.1:{port}")
    assert found["failed"] == found["requests"]
    assert found["by"] == {"no answer: ConnectionRefusedError": found["requests"]}
    assert found["latency_p50_ms"] is None
