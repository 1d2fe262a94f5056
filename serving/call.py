"""One HTTP request as our routes see it: its headers read once, its id, its trace and its deadline."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Receive, Scope

REQUEST_ID = re.compile(rb"[!-~]{1,128}")
TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

PREFIX, COUNTER = secrets.token_hex(4), itertools.count(1)


@dataclass(slots=True)
class Call:
    """`headers` has the last of those that share a name; it ends at its `deadline`, of `perf_counter`."""

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    deadline: float = float("inf")
    received: bool = False
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


class Alarm:
    """Has a call's `timeout` expire: at its deadline, or after `receive_s` where it has not been received by then.

    asyncio.timeout by itself would have to be armed anew once the body is there: 9 us a request, of which this takes 4.
    Nobody is late for it: it looks once, and then waits for the deadline.
    """

    def __init__(self, call: Call, timeout: asyncio.Timeout, receive_s: float) -> None:
        self.call, self.timeout = call, timeout
        self.received = False  # when it rang; the call's own may change before its task learns of it
        self.loop = asyncio.get_running_loop()
        self.handle = self.loop.call_later(receive_s, self.ring)

    def ring(self) -> None:
        left_s = self.call.deadline - time.perf_counter()
        self.received = self.call.received
        if self.received and left_s > 0:
            self.handle = self.loop.call_later(left_s, self.ring)
        else:
            self.timeout.reschedule(self.loop.time())

    def stop(self) -> None:
        self.handle.cancel()


current: ContextVar[Call | None] = ContextVar("current", default=None)
