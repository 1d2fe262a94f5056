"""A server of one's own whose delays are known, and what it says of them."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from loadtests.local_service import NO_PROXY, local_server
from loadtests.results import Target


@dataclass(frozen=True, slots=True)
class KnownDelays:
    url: str

    def target(self, variant: str = "a") -> Target:
        return Target(self.url, variant)

    def delays(self, variant: str = "a") -> dict[str, Any]:
        """Those really injected: `count`, `mean_ms`, `p50_ms`, `p90_ms`, `p99_ms`, `p999_ms`, `histogram_us`."""
        with NO_PROXY.open(f"{self.url}/delays", timeout=10) as response:
            found: dict[str, Any] = json.load(response)["variants"][variant]
        return found

    def forget(self) -> None:
        NO_PROXY.open(urllib.request.Request(f"{self.url}/delays/reset", method="POST"), timeout=10).close()  # noqa: S310  our own


@contextmanager
def known_delays(*options: str) -> Iterator[KnownDelays]:
    """`options` of `python -m loadtests.known_delays`, but the port."""
    command = [sys.executable, "-m", "loadtests.known_delays", *options, "--port"]
    with local_server(lambda port: [*command, str(port)]) as server:
        yield KnownDelays(server.url)
