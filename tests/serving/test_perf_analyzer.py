"""Triton's own load generator asks a real service."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from loadtests.local_service import LocalService
from tests.conftest import PAIR, PERF_ANALYZER, PERF_ANALYZER_LIBRARIES

pytestmark = pytest.mark.perf_analyzer


def analyzed(service: LocalService, *options: str, variant: str = PAIR[0]) -> subprocess.CompletedProcess[str]:
    url = service.url.removeprefix("http://")
    command = [str(PERF_ANALYZER), "-m", variant, "-u", url, *options]
    environment = os.environ | PERF_ANALYZER_LIBRARIES
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(
    "options",
    [
        ("-b", "3", "--concurrency-range", "2"),
        ("--async", "--concurrency-range", "4"),
        ("--request-rate-range", "40"),
        ("--input-tensor-format", "json", "--output-tensor-format", "json"),
    ],
)
def test_it_has_its_requests_answered(service: LocalService, options: tuple[str, ...]) -> None:
    done = analyzed(service, "--request-count", "40", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Request count: 40\n" in done.stdout
    assert re.search(r"throughput: [1-9][\d.]* infer/sec, latency [1-9]\d* usec", done.stdout)


def test_it_is_told_what_was_wrong(service: LocalService) -> None:
    done = analyzed(service, variant="nobody")
    assert done.returncode != 0
    message = f"variant 'nobody' is not served here; found nobody; accepted: {', '.join(PAIR)}"
    assert message in done.stdout + done.stderr
