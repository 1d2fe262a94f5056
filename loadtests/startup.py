"""How long a service takes from its command, or a container from `docker run`, to `/readyz`."""

from __future__ import annotations

import platform
import statistics
import time
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

from tqdm import tqdm

from loadtests.local_service import LocalService, local_server, local_service
from loadtests.machine import machine

# without rights, on two cores
DOCKER_RUN = ("docker", "run", "--rm", "--read-only", "--tmpfs=/tmp", "--user=10001", "--cap-drop=ALL", "--cpus=2")


def container_of(image: str) -> AbstractContextManager[LocalService]:
    """`docker run` in the foreground: it hands SIGTERM on."""
    return local_server(lambda port: [*DOCKER_RUN, "--publish", f"127.0.0.1:{port}:3000", image])


def measure_startup(runs: int, image: str | None = None) -> dict[str, Any]:
    """Start and stop the service, or a container, `runs` times after one that is not counted; seconds, with the
    conditions."""
    counted = []
    for number in tqdm(range(runs + 1), desc="starting", unit="run"):
        with local_service() if image is None else container_of(image) as service:
            if number:
                counted.append(round(service.ready_s, 3))
    return {
        "measure": f"seconds from `{command_of(image)}` to a /readyz of 200",
        "median": statistics.median(counted),
        "least": min(counted),
        "most": max(counted),
        "runs": counted,
        "machine": machine(),
        **(versions() if image is None else {}),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def versions() -> dict[str, Any]:
    """Of what serves here; an image has its own."""
    packages = {name: version(name) for name in ("bentoml", "onnxruntime", "numpy", "pillow")}
    return {"python": platform.python_version(), "packages": packages}


def command_of(image: str | None) -> str:
    return "bentoml serve" if image is None else " ".join([*DOCKER_RUN, image])
