"""One HTTP request as our routes see it; Starlette's own view of it costs more than a small network's answer may."""

from __future__ import annotations

import itertools
import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Receive, Scope

REQUEST_ID = re.compile(rb"[!-~]{1,128}")
TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

PREFIX, COUNTER = secrets.token_hex(4), itertools.count(1)


@dataclass(slots=True)
class Call:
    """`headers` has the last of those that share a name; `deadline` is a `perf_counter` reading."""

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    deadline: float = float("inf")
    request_id: str = field(init=False)

    def __post_init__(self) -> None:
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if REQUEST_ID.fullmatch(given) else f"{PREFIX}-{next(COUNTER):x}"

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def trace_id(self) -> str | None:
        """Of W3C's `traceparent`; None without one, or where it is malformed."""
        match = TRACE_PARENT.fullmatch(self.headers.get(b"traceparent", b""))
        return None if match is None else match[1].decode()

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")


current: ContextVar[Call | None] = ContextVar("current", default=None)
