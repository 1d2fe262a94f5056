"""What tests of load share: a server whose delays are known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.__main__ import main
from loadtests.local_service import LocalService, local_server
from loadtests.results import Target
from tests.loadtests.command_line import Done, Loadtests, known_delays


def delaying(port: int) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("delaying_server.py")), str(port)]


@pytest.fixture(scope="session")
def delaying_server() -> Iterator[LocalService]:
    with local_server(delaying) as server:
        yield server


@pytest.fixture
def target(delaying_server: LocalService) -> Target:
    return Target(delaying_server.url, "resnet20-preact")


@pytest.fixture
def mortal_server() -> Iterator[LocalService]:
    """One that a test may kill."""
    with local_server(delaying) as server:
        yield server


@pytest.fixture(scope="module")
def slower_b() -> Iterator[LocalService]:
    with known_delays("--delay", "constant:8", "--factor", "b=2.5") as running:
        yield running


@pytest.fixture
def loadtests(capsys: pytest.CaptureFixture[str]) -> Loadtests:
    """The command line, without the seconds that a process takes to import what it needs."""

    def run(*arguments: str) -> Done:
        try:
            status = main(list(arguments))
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return Done(status, *capsys.readouterr())

    return run
