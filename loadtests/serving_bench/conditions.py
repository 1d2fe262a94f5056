"""What a measurement ran on and with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from loadtests.machine import machine
from loadtests.serving_bench.artifacts import ROOT
from loadtests.serving_bench.lanes import PEERS_PYTHON, SETTINGS
from loadtests.serving_bench.plan import Lane
from loadtests.serving_bench.wrk import wrk_version

PACKAGES = ("bentoml", "httptools", "numpy", "onnxruntime", "pillow", "starlette", "uvicorn", "uvloop")
OF_PEERS = (*PACKAGES, "fastapi", "litserve", "pydantic")
ASK = "import importlib.metadata as m, json, sys; print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"


def conditions(lanes: Sequence[Lane], threads: int) -> dict[str, Any]:
    return {
        "machine": machine(),
        "cores_used": "client and servers share all that there are; nothing is pinned",
        "client": f"{wrk_version()}, 1 thread, closed workload, keep-alive",
        "threads": threads,
        "lanes": {lane: SETTINGS.get(lane, "the server of `ours`, measured a second time") for lane in lanes},
        "python": f"{platform.python_version()}, built {platform.python_build()[1]}",  # builds differ by a fifth
        "packages": {name: version(name) for name in PACKAGES},
        "peers_packages": peers_packages(),
        "commit": commit(),
        "load_average_before": os.getloadavg()[0],
        "begun": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def peers_packages() -> dict[str, str] | None:
    if not PEERS_PYTHON.exists():
        return None
    done = subprocess.run([str(PEERS_PYTHON), "-c", ASK, *OF_PEERS], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def commit() -> str | None:
    """Ends in `-dirty` where tracked files differ from it; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
