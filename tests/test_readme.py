"""Every command of the README runs, in its order, in a fresh copy of the project."""

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
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from loadtests.local_service import free_port, is_ready
from tests.conftest import ROOT
from tests.models.test_data import write_batches

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [command for kind, text in BLOCKS if kind == "sh" for command in text.replace("\\\n", " ").splitlines()]
BY_CI = {"make demo", "make test"}  # the first takes minutes, the second would run this test
SERVES = re.compile(r"make serve|bentoml serve")


def test_ci_runs_what_this_test_does_not() -> None:
    assert {command for command in COMMANDS if command in BY_CI} == BY_CI
    in_ci = set((ROOT / ".ci" / "run").read_text().splitlines())
    assert in_ci >= BY_CI


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tracked files as they are now, with this environment as `.venv` and a data set as the README names it."""
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
        yield
    finally:
        with suppress(ProcessLookupError):  # it ended by itself: the assertion above says so
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_every_command_runs(copy: Path) -> None:
    ports = {"3000": str(free_port())}

    def placed(text: str) -> str:
        return re.sub(r"\b300[01]\b", lambda port: ports[port[0]], text)

    (program,) = [text for kind, text in BLOCKS if kind == "python"]
    server = next(command for command in COMMANDS if "make serve" in command)
    rest = [command for command in COMMANDS if command not in BY_CI and command != server]
    assert len(rest) > 8
    with serving(placed(server), copy, f"http://localhost:{ports['3000']}"):
        for command in rest:
            if SERVES.search(command):
                ports["3001"] = str(free_port())  # not sooner: what runs meanwhile takes ports as well
                second = f"http://localhost:{ports['3001']}"
                with serving(placed(command), copy, second), urllib.request.urlopen(f"{second}/variants") as response:
                    assert b"resnet20-preact" in response.read()
            else:
                done = subprocess.run(["bash", "-ec", placed(command)], cwd=copy, capture_output=True, text=True)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                if command.startswith("curl"):
                    assert '"resnet20-p' in done.stdout, command
        done = subprocess.run(
            [".venv/bin/python", "-c", placed(program)], cwd=copy, capture_output=True, text=True, check=True
        )
        assert len(done.stdout.splitlines()) == 5
