"""What a worker has opened, and how much of it is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serving.classifier import Classifier
from serving.config import Settings
from serving.errors import RequestError
from serving.keys import Keys
from serving.metrics import metrics

RECEIVING_PER_IN_FLIGHT = 4
WATCHED_AFTER_S = 0.02  # most answers come sooner
Result = TypeVar("Result")


@dataclass
class Opened:
    """Empty until the worker is ready, and again once it closes."""

    classifier: Classifier | None = None
    keys: Keys | None = None
    pool: ThreadPoolExecutor | None = None
    in_flight: int = field(default=0, init=False)
    receiving: int = field(default=0, init=False)

    @property
    def longest_s(self) -> float:
        """What no request may take longer than, its body included."""
        settings = self.classifier.settings if self.classifier is not None else Settings.model_validate({})
        return settings.max_timeout_ms / 1e3

    def ready(self) -> Classifier:
        if self.classifier is None:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the models are not open; the log says why")
        return self.classifier

    async def receive(self, body: Awaitable[bytes]) -> bytes:
        """Bodies on their way are counted apart: slow clients must not keep quick ones out."""
        most = self.ready().settings.max_in_flight
        try:
            admit(self.in_flight, most)  # no use in receiving what would be refused
            admit(self.receiving, RECEIVING_PER_IN_FLIGHT * most)
        except RequestError:
            body.close()  # type: ignore[attr-defined]  # a coroutine that nobody will await
            raise
        self.receiving += 1
        try:
            return await body
        finally:
            self.receiving -= 1

    async def run(self, receive: Receive, function: Callable[..., Result], *arguments: object) -> Result:
        """In a thread of the pool, unless too many wait for one already.

        Who gives up leaves the queue: a client that hangs up, or a task that is cancelled at its deadline. Work that a
        thread has begun is finished, and counts until then.
        """
        settings, pool = self.ready().settings, self.pool
        assert pool is not None
        admit(self.in_flight, settings.max_in_flight)  # others may have come first meanwhile
        self.change(+1)
        loop = asyncio.get_running_loop()
        work = pool.submit(function, *arguments)
        waiting = asyncio.wrap_future(work)
        watch = Watch(waiting, receive)
        soon = loop.call_later(WATCHED_AFTER_S, watch.begin)
        try:
            return await waiting
        except asyncio.CancelledError:
            if watch.saw_hang_up:
                raise ClientDisconnect from None
            raise
        finally:
            soon.cancel()
            watch.end()
            if work.cancel() or work.done():
                self.change(-1)
            else:
                work.add_done_callback(lambda _: loop.call_soon_threadsafe(self.change, -1))

    def change(self, by: int) -> None:
        self.in_flight += by
        metrics().in_flight.set(self.in_flight)


class Watch:
    """Cancels what a client waits for when the client is gone. It takes a task, so only what takes long is watched."""

    def __init__(self, waiting: asyncio.Future[Any], receive: Receive) -> None:
        self.waiting, self.receive = waiting, receive
        self.task: asyncio.Task[None] | None = None
        self.saw_hang_up = False

    def begin(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.until_gone())

    def end(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.saw_hang_up = not self.waiting.done()
        self.waiting.cancel()


def admit(held: int, most: int) -> None:
    if held >= most:
        raise RequestError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "overloaded",
            f"{held} requests are held, as many as may be",
            found=str(held),
            accepted=[f"up to {most} at once"],
            headers={"retry-after": "1"},
        )
