"""The command line, asked in this process, and servers for it to ask whose delays are known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from loadtests.local_service import LocalService, local_server
from tests.conftest import ROOT

SHORT = ("--schedule", "poisson:150", "--turn-seconds", "0.12", "--warm-up-seconds", "0.05", "--max-lag-ms", "10000")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Loadtests = Callable[..., Done]


def known_delays(*arguments: str) -> AbstractContextManager[LocalService]:
    command = [sys.executable, "-m", "loadtests.known_delays", "--variants", "a,b", *arguments, "--port"]
    return local_server(lambda port: [*command, str(port)], folder=ROOT)


def gates(folder: Path, text: str) -> str:
    path = folder / "gates.toml"
    path.write_text(text)
    return str(path)
