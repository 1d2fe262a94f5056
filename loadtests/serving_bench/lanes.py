"""The lanes of one artifact, started: every server is ready and stays so, idle while another is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from loadtests.local_service import NO_PROXY, ServiceError, local_server, local_service, printed, stop
from loadtests.serving_bench.artifacts import ROOT, Artifact
from loadtests.serving_bench.plan import CEILINGS, PEERS, SPREAD, Lane
from loadtests.serving_bench.processes import Tree
from loadtests.serving_bench.wrk import Load, as_load, run_wrk

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
OF_PEERS = "loadtests.serving_bench.peers"
READY_WITHIN_S = 120.0
ROUTE = "/classify"

SETTINGS = {
    Lane.OURS: "bentoml serve, 1 worker, SERVING_THREADS as below, all else as it is by default",
    Lane.STARLETTE: "uvicorn, 1 worker, uvloop, httptools, no access log; receives the body, decodes nothing",
    Lane.FASTAPI: "uvicorn, 1 worker, uvloop, httptools, no access log; thread pool; pydantic response model",
    Lane.FASTAPI_SPREAD: "the same, with ONNX Runtime's default: an inference on as many threads as there are cores",
    Lane.FASTAPI_DECODER: "as fastapi, with this service's decoder in place of Pillow",
    Lane.LITSERVE: "as many workers as others have threads, as many API servers, uvloop, httptools, no access log",
    Lane.BENTOML: "bentoml serve, 1 worker, threads as below, all else as it is by default; Pillow image in, dict out",
    Lane.CEILING: "no server: decode and infer in a loop, on no more threads than there are connections",
    Lane.CEILING_SPREAD: "the same, an inference on as many threads as there are cores",
}


def check_peers(lanes: Sequence[Lane]) -> None:
    if set(lanes) & {*PEERS, Lane.FASTAPI_DECODER} and not PEERS_PYTHON.exists():
        raise ServiceError(f"{PEERS_PYTHON}: no such file; the peers' environment is made by: make .venv-peers/ready")


class Opened(Protocol):
    """A lane that can be measured."""

    @property
    def tree(self) -> Tree: ...

    def predictions(self, jpeg: Path) -> list[dict[str, Any]]:
        """What it answers to a picture."""
        ...

    def load(self, jpegs: Sequence[Path], seconds: int, connections: int) -> Load: ...


@dataclass(frozen=True)
class Server:
    url: str
    tree: Tree

    def predictions(self, jpeg: Path) -> list[dict[str, Any]]:
        request = urllib.request.Request(  # noqa: S310  a server of our own
            self.url + ROUTE, data=jpeg.read_bytes(), headers={"content-type": "image/jpeg"}
        )
        with NO_PROXY.open(request, timeout=30) as response:
            found: list[dict[str, Any]] = json.load(response)["predictions"]
        return found

    def load(self, jpegs: Sequence[Path], seconds: int, connections: int) -> Load:
        return run_wrk(self.url + ROUTE, jpegs, seconds, connections)


@dataclass(frozen=True)
class Ceiling:
    process: subprocess.Popen[str]
    log: IO[bytes]
    threads: int
    tree: Tree

    def predictions(self, jpeg: Path) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask({"answer": str(jpeg)})["predictions"]
        return found

    def load(self, jpegs: Sequence[Path], seconds: int, connections: int) -> Load:  # noqa: ARG002  it has its own
        return as_load(self.ask({"seconds": seconds, "threads": min(self.threads, connections)}))

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return answered(self.process, self.log)


def open_lane(lane: Lane, artifact: Artifact, jpegs: Sequence[Path], threads: int) -> AbstractContextManager[Opened]:
    """Raises ServiceError, on entering, where it does not become ready."""
    if lane in {Lane.OURS, Lane.OURS_AGAIN}:
        return our_service(artifact, threads)
    environment = {
        "BENCH_ARTIFACT": str(artifact.folder.resolve()), "BENCH_THREADS": str(threads), "BENTOML_DO_NOT_TRACK": "True",
    }  # fmt: skip
    if lane in {*CEILINGS, Lane.FASTAPI_DECODER}:
        environment["BENCH_DECODER"] = "ours"
    if lane in SPREAD:
        environment["BENCH_INTRA_OP_THREADS"] = "0"
    if lane in CEILINGS:
        return ceiling(environment, jpegs, threads)
    return server(lane, environment)


@contextmanager
def our_service(artifact: Artifact, threads: int) -> Iterator[Server]:
    environment = {
        "BENTOML_HOME": str(artifact.home.resolve()),
        "SERVING_MODELS": artifact.tag,
        "SERVING_RUNTIME": "onnxruntime",
        "SERVING_WORKERS": "1",
        "SERVING_THREADS": str(threads),
    }
    with local_service(environment=environment, folder=ROOT, ready_within_s=READY_WITHIN_S) as service:
        yield Server(service.url, Tree(service.pid))


@contextmanager
def server(lane: Lane, environment: Mapping[str, str]) -> Iterator[Server]:
    """The default BentoML gets a store of its own: two services on one overwrite each other's metrics."""
    with tempfile.TemporaryDirectory(prefix="serving-bench-") as home:
        environment = {**environment, "BENTOML_HOME": home}
        with local_server(command_of(lane), environment, ROOT, READY_WITHIN_S) as running:
            yield Server(running.url, Tree(running.pid))


def command_of(lane: Lane) -> Callable[[int], list[str]]:
    """By port."""
    match lane:
        case Lane.STARLETTE:
            return lambda port: uvicorn(Path(sys.executable), "starlette_echo", port)
        case Lane.FASTAPI | Lane.FASTAPI_SPREAD | Lane.FASTAPI_DECODER:
            return lambda port: uvicorn(PEERS_PYTHON, "fastapi_app", port)
        case Lane.LITSERVE:
            return lambda port: [str(PEERS_PYTHON), "-m", f"{OF_PEERS}.litserve_app", "--port", str(port)]
        case Lane.BENTOML:
            target = f"{OF_PEERS}.bentoml_default:Classify"
            head = [str(PEERS_PYTHON), "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port"]
            return lambda port: [*head, str(port)]
        case _:
            raise AssertionError(f"{lane} has no command")


def uvicorn(python: Path, module: str, port: int) -> list[str]:
    return [
        str(python), "-m", "uvicorn", f"{OF_PEERS}.{module}:app", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip


@contextmanager
def ceiling(environment: Mapping[str, str], jpegs: Sequence[Path], threads: int) -> Iterator[Ceiling]:
    command = [sys.executable, "-m", f"{OF_PEERS}.ceiling", *(str(path.resolve()) for path in jpegs)]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        ) as process,
    ):  # fmt: skip
        try:
            answered(process, log)
            yield Ceiling(process, log, threads, Tree(process.pid))
        finally:
            stop(process)


def answered(process: subprocess.Popen[str], log: IO[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ServiceError(f"the ceiling's process ended; its log ends:\n{printed(log)[-4000:]}")
    content: dict[str, Any] = json.loads(line)
    return content
