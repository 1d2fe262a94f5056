"""The client: wrk, one thread, a closed workload."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_S = 30  # beyond, wrk forgets the time that an answer took; servers give up earlier


class WrkError(RuntimeError):
    """There is no wrk, or it said nothing that can be used."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a turn's client saw. `failures` counts answers that are not 2xx (`status`) and errors of sockets."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    failures: dict[str, int]


def wrk_program() -> str:
    program = shutil.which("wrk")
    if program is None:
        raise WrkError("wrk is not installed, and nothing else is as light a client: apt install wrk")
    return program


def wrk_version() -> str:
    done = subprocess.run([wrk_program(), "--version"], check=False, capture_output=True, text=True)  # ends with 1
    return (done.stdout + done.stderr).partition(" Copyright")[0].strip()


def run_wrk(url: str, jpegs: Sequence[Path], seconds: int, connections: int) -> Load:
    command = [
        wrk_program(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s",
        "--timeout", f"{TIMEOUT_S}s", "--latency", "--script", str(SCRIPT), url, "--", *map(str, jpegs),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise WrkError(f"{' '.join(command[:10])} ... ended with {done.returncode}: {done.stderr or done.stdout}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """The script's line is the last."""
    lines = output.strip().splitlines()
    try:
        return as_load(json.loads(lines[-1]))
    except (IndexError, ValueError, KeyError) as error:
        raise WrkError(f"wrk printed no measurement: {output[-400:]!r}") from error


def as_load(measured: dict[str, Any]) -> Load:
    failures = {kind: count for kind, count in measured["errors"].items() if count}
    return Load(
        measured["requests"], measured["duration_us"] / 1e6, measured["latency_p50_us"], measured["latency_p99_us"],
        failures,
    )  # fmt: skip
