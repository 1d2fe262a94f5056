"""A service of one's own to test: `bentoml serve` on a free port, ready when entered, gone when left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

READY_WITHIN_S = 60.0
STOPS_WITHIN_S = 15.0
BEGUN = "Service preflight initialized"  # BentoML's line for each worker that has opened the models
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment says of proxies


class ServiceError(RuntimeError):
    """The service did not become ready; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class LocalService:
    """Its command, where it answers, its process (the parent of the worker), and the time from start to `/readyz`."""

    command: list[str]
    url: str
    pid: int
    ready_s: float
    output: IO[bytes]

    def log(self) -> str:
        """What it has printed so far."""
        return printed(self.output)

    def begun(self) -> int:
        """How many workers of this project's service have opened the models since the start."""
        return self.log().count(BEGUN)


@contextmanager
def local_service(
    target: str = "serving.service:Preflight",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    ready_within_s: float = READY_WITHIN_S,
) -> Iterator[LocalService]:
    """Serve `target`, a service's import path or a bento's tag, with `environment` added to this process's."""
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port"]
    with local_server(lambda port: [*command, str(port)], environment, folder, ready_within_s) as service:
        yield service


@contextmanager
def local_server(
    command_on: Callable[[int], list[str]],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    ready_within_s: float = READY_WITHIN_S,
) -> Iterator[LocalService]:
    """Any server with a `/readyz`, by its command on a port, which has to listen with SO_REUSEADDR, as servers do."""
    with held_port() as port, tempfile.TemporaryFile() as log:
        url = f"http://127.0.0.1:{port}"
        command = command_on(port)
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not is_ready(url):
                if process.poll() is not None or time.perf_counter() - begun > ready_within_s:
                    raise ServiceError(
                        f"{' '.join(command)} did not become ready; its log ends:\n{printed(log)[-4000:]}"
                    )
                time.sleep(0.02)
            yield LocalService(command, url, process.pid, time.perf_counter() - begun, log)
        finally:
            stop(process)


def printed(log: IO[bytes]) -> str:
    """Read without moving the offset, which the service writes at."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")


@contextmanager
def held_port() -> Iterator[int]:
    """A port that nobody else is given meanwhile: bound here, and not listened on, so that a server which sets
    SO_REUSEADDR may. Of two who had looked for a free one at the same time the one whose server had died was answered
    by the other's, until that stopped."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def is_ready(url: str) -> bool:
    try:
        with NO_PROXY.open(f"{url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop(process: subprocess.Popen[Any]) -> None:
    """Ask it to end, then make sure that no worker outlives it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOPS_WITHIN_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
