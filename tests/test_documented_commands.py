"""Every command that a document tells its reader to run is run: here, in its order, in a fresh copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtests.local_service import held_port, is_ready
from tests.conftest import ROOT
from tests.documents import DOCS, DOCUMENTS, README, blocks, commands, name_of
from tests.models.test_data import write_batches

GUIDE, SERVING = DOCS / "guide.md", DOCS / "serving.md"
SERVES = re.compile(r"make serve|bentoml serve")
DECIDES = re.compile(r"loadtests compare .*--gates")
VERDICTS = {0, 1, 3}  # which of them is the machine's to say
BY_CI = {"make demo", "make test"}  # the first takes minutes, the second would run this test
# What needs more than Python, or longer than a test may take: (where the same is run, what stands there).
ELSEWHERE = {
    "make demo": (".ci/run", "\nmake demo\n"),
    "make test": (".ci/run", "\nmake test\n"),
    "make image": ("tests/deploy/conftest.py", '"-m", "deploy.image", "cpu"'),
    "docker run": ("tests/deploy/test_image.py", '"--read-only"'),
    "docker inspect": ("tests/deploy/engine.py", 'docker("inspect"'),
    "make sbom": ("tests/deploy/test_image.py", '"sbom.py"'),
    "make up": ("tests/deploy/test_compose.py", "host.run(told[UP])"),
    "make down": ("tests/deploy/test_compose.py", "host.run(told[DOWN])"),
    "curl --cacert": ("tests/deploy/test_compose.py", "host.run(told[CLASSIFY])"),
    "make kube-check": ("tests/deploy/test_kubernetes.py", "kube_check"),
    "kubectl apply": ("tests/deploy/test_kubernetes.py", "commands(document)"),  # resolved: there is no cluster
    "make bench-serving": ("tests/loadtests/test_serving_bench.py", "main("),
}


def elsewhere(command: str) -> bool:
    return any(command.startswith(each) for each in ELSEWHERE)


def test_what_is_not_run_here_is_run_elsewhere() -> None:
    here = {README, SERVING, GUIDE}
    for document in DOCUMENTS:
        left = [each for each in commands(document) if document not in here and not elsewhere(each)]
        assert not left, f"{name_of(document)}: {left}"
    for place, text in ELSEWHERE.values():
        assert text in (ROOT / place).read_text(), place


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tracked files as they are now, with this environment as `.venv` and data sets as the documents name them."""
    if not (Path(sys.prefix) / "dev").exists():
        pytest.skip("needs the environment that make test sets up")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "copy"
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)  # with its time, or make would install anew
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "cifar-10-batches-py").mkdir()
    write_batches(folder / "cifar-10-batches-py")
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "photographs" / name).mkdir(parents=True)
        for number in range(20):
            image = Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            image.save(folder / "photographs" / name / f"{number}.png")
    return folder


@contextmanager
def serving(command: str, copy: Path, url: str) -> Iterator[None]:
    log = copy.parent / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=copy, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        begun = time.monotonic()
        while not is_ready(url):
            assert process.poll() is None, f"{command}\n{log.read_text()}"
            assert time.monotonic() - begun < 120, f"{command}\n{log.read_text()}"
            time.sleep(0.1)
        with urllib.request.urlopen(f"{url}/variants") as response:
            assert b"resnet20-preact" in response.read()
        yield
    finally:
        with suppress(ProcessLookupError):  # it ended by itself: the assertion above says so
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


class Reader:
    """Types what is told, on free ports and with less patience; services stay until the end."""

    def __init__(self, copy: Path, services: ExitStack) -> None:
        self.copy, self.services = copy, services
        self.ports: dict[str, str] = {}

    def placed(self, text: str) -> str:
        text = re.sub(r"--max-seconds \d+", "--max-seconds 10", text)
        text = re.sub(r"(models train \S+ --data \S+)$", r"\1 --epochs 2", text)
        return re.sub(r"\b300[01]\b", lambda port: self.ports[port[0]], text)

    def run(self, command: str) -> None:
        if SERVES.search(command):
            (port,) = re.findall(r"\b300[01]\b", command)
            self.ports[port] = str(self.services.enter_context(held_port()))
            url = f"http://localhost:{self.ports[port]}"
            self.services.enter_context(serving(self.placed(command), self.copy, url))
            return
        done = subprocess.run(["bash", "-ec", self.placed(command)], cwd=self.copy, capture_output=True, text=True)
        allowed = VERDICTS if DECIDES.search(command) else {0}
        assert done.returncode in allowed, f"{command}\n{done.stdout}{done.stderr}"
        if command.startswith("curl") and "|" not in command:
            assert '"resnet20-p' in done.stdout, command


@pytest.fixture
def reader(copy: Path) -> Iterator[Reader]:
    with ExitStack() as services:
        yield Reader(copy, services)


def test_every_command_of_the_readme_runs(reader: Reader) -> None:
    """And of the page on serving, which goes on where the README ends."""
    (program,) = blocks(README, "python")
    told = [command for document in (README, SERVING) for command in commands(document) if not elsewhere(command)]
    assert len(told) > 20
    for command in told:
        reader.run(command)
    done = subprocess.run(
        [".venv/bin/python", "-c", reader.placed(program)], cwd=reader.copy, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 5


def test_every_command_of_the_guide_runs(reader: Reader) -> None:
    told = commands(GUIDE)
    assert len(told) > 12
    for command in told:
        reader.run(command)
