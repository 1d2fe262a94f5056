"""What tests of load share: a server whose delays are known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.local_service import LocalService, local_server
from loadtests.results import Target


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
