"""How long a service takes from its command to `/readyz`."""

from __future__ import annotations

import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loadtests.local_service import local_service
from loadtests.machine import machine


def measure_startup(runs: int) -> dict[str, Any]:
    """Start and stop the service `runs` times after one that is not counted; seconds, with the conditions."""
    counted = []
    for number in tqdm(range(runs + 1), desc="starting", unit="run"):
        with local_service() as service:
            if number:
                counted.append(round(service.ready_s, 3))
    return {
        "measure": "seconds from `bentoml serve` to a /readyz of 200",
        "median": statistics.median(counted),
        "least": min(counted),
        "most": max(counted),
        "runs": counted,
        "machine": machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("bentoml", "onnxruntime", "numpy", "pillow")},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def write_startup(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
