"""One HTTP request as our routes see it: its headers read once, its id, its trace and its deadline."""

from __future__ import annotations

import asyncio
import enum
import itertools
import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Receive, Scope

from serving.room import Room

REQUEST_ID_HEADER = b"x-request-id"
REQUEST_ID = re.compile(rb"[!-~]{1,128}")
TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

LOOKS_EVERY_S = 0.25  # to listen for a hang-up takes a task, 6 us; most answers come sooner
PREFIX, COUNTER = secrets.token_hex(4), itertools.count(1)


@dataclass(slots=True)
class Call:
    """`headers` has the last of those that share a name; it ends at its `deadline`, of `perf_counter`.

    `held` bytes of its body are in `room`, where it has one.
    """

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    deadline: float = float("inf")
    received: bool = False
    room: Room | None = None
    held: int = 0
    request_id: str = field(init=False)

    def __post_init__(self) -> None:
        given = self.headers.get(REQUEST_ID_HEADER)
        if given is None or not REQUEST_ID.fullmatch(given):
            self.request_id = f"{PREFIX}-{next(COUNTER):x}"
        else:
            self.request_id = given.decode()

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

    def hold(self, size: int, *, is_whole: bool = False) -> None:
        """So many bytes more, that have come. Raises RequestError 429 where there is no room for them."""
        if self.room is not None:
            self.room.take(size, is_whole=is_whole)
            self.held += size

    def give_back(self) -> None:
        """All that it holds."""
        if self.room is not None:
            self.room.give_back(self.held)
            self.held = 0


class Vain(enum.Enum):
    """Why nobody is to be answered."""

    SLOW_BODY = enum.auto()
    TOO_LATE = enum.auto()
    GONE = enum.auto()


class Watch:
    """Cancels the task that it is made in once that would answer a call in vain; `found` says why.

    One timer, which most answers come before: asyncio.timeout, armed anew once the body is there, and another timer to
    begin to listen took 8 us a request in a loop where this takes 2 (the least of three). It looks every now and then
    until the body is there; from then on it waits for the deadline, and for the client to hang up.
    """

    def __init__(self, call: Call, receive_s: float) -> None:
        now = time.perf_counter()
        self.call = call
        self.body_by = min(now + receive_s, call.deadline)
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.current_task(self.loop)
        self.found: Vain | None = None
        self.listener: asyncio.Task[None] | None = None
        self.handle = self.loop.call_later(min(LOOKS_EVERY_S, self.body_by - now), self.look)

    def look(self) -> None:
        now, received = time.perf_counter(), self.call.received
        left_s = (self.call.deadline if received else self.body_by) - now
        if left_s <= 0:
            self.end(Vain.TOO_LATE if self.call.deadline <= now else Vain.SLOW_BODY)
            return
        self.handle = self.loop.call_later(left_s if received else min(LOOKS_EVERY_S, left_s), self.look)
        if received and self.listener is None:
            self.listener = self.loop.create_task(self.listen())

    async def listen(self) -> None:
        while (await self.call.receive())["type"] != "http.disconnect":
            pass
        self.end(Vain.GONE)

    def end(self, found: Vain) -> None:
        if self.found is None and self.task is not None:
            self.found = found
            self.task.cancel()

    def ended(self) -> bool:
        """For who was cancelled: whether it was by this, and by nothing else."""
        return self.found is not None and self.task is not None and self.task.uncancel() == 0

    def stop(self) -> None:
        self.handle.cancel()
        if self.listener is not None:
            self.listener.cancel()


current: ContextVar[Call | None] = ContextVar("current", default=None)
