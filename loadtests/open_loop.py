"""An open workload: requests go out when they are due, whatever became of those before.

Latency counts from when a request was due, so that a service that stalls cannot hide what it kept waiting.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds since the workload began. `status` is 0 where no answer came, and `problem` says why."""

    due_s: float
    sent_s: float
    ended_s: float
    status: int
    problem: str = ""

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s


def poisson(rate_rps: float, seconds: float, seed: int) -> Iterator[float]:
    """When requests are due that come independently of each other."""
    generator, due = random.Random(seed), 0.0  # noqa: S311  an arrival, not a secret
    while (due := due + generator.expovariate(rate_rps)) < seconds:
        yield due


def posts(url: str, bodies: Sequence[bytes], timeout_ms: int) -> list[bytes]:
    """Whole requests, ready to be written."""
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    return [
        f"POST {target} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: image/jpeg\r\n"
        f"x-request-timeout-ms: {timeout_ms}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]


async def run_open(url: str, requests: Sequence[bytes], due: Iterator[float], patience_s: float) -> list[Outcome]:
    """Send each at its time over a free connection, or a new one; ends when the last is answered or given up."""
    clients = Clients(url, patience_s)
    tasks = []
    begun = time.perf_counter()
    for at, request in zip(due, cycle(requests)):
        if (ahead := begun + at - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.ensure_future(clients.ask(request, at, begun)))
    outcomes = await asyncio.gather(*tasks)
    clients.close()
    return outcomes


class Clients:
    """Connections that are kept for the next request."""

    def __init__(self, url: str, patience_s: float) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.patience_s = parts.hostname or "", parts.port or 80, patience_s
        self.free: list[Connection] = []

    async def ask(self, request: bytes, due_s: float, begun: float) -> Outcome:
        connection, sent, status, problem = None, time.perf_counter(), 0, ""
        try:
            async with asyncio.timeout(self.patience_s):
                connection = await self.connection()
                sent = time.perf_counter()
                status = await connection.ask(request)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            problem = type(error).__name__
        if connection is not None:
            if status and connection.is_open:
                self.free.append(connection)
            else:
                connection.transport.abort()
        return Outcome(due_s, sent - begun, time.perf_counter() - begun, status, problem)

    async def connection(self) -> Connection:
        while self.free:
            if (kept := self.free.pop()).is_open:
                return kept
        _, made = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return made

    def close(self) -> None:
        for connection in self.free:
            connection.transport.abort()


class Connection(asyncio.Protocol):
    """One request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_open = False
        self.answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.is_open = transport, True

    def ask(self, request: bytes) -> asyncio.Future[int]:
        self.parser = httptools.HttpResponseParser(self)
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(error)

    def on_message_complete(self) -> None:
        self.is_open = self.parser.should_keep_alive()
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(self.parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        self.end(error or ConnectionResetError("closed before the answer"))

    def end(self, error: Exception) -> None:
        self.is_open = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
