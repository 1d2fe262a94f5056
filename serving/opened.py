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
        work = pool.submit(function, *arguments)
        try:
            waiting = asyncio.wrap_future(work)
            if self.in_flight > settings.threads:  # it has to queue
                await first_of(waiting, receive)
            return await waiting
        finally:
            if work.cancel() or work.done():
                self.change(-1)
            else:
                loop = asyncio.get_running_loop()
                work.add_done_callback(lambda _: loop.call_soon_threadsafe(self.change, -1))

    def change(self, by: int) -> None:
        self.in_flight += by
        metrics().in_flight.set(self.in_flight)


async def first_of(waiting: asyncio.Future[Result], receive: Receive) -> None:
    """Raises ClientDisconnect where the client is gone before the work is done."""
    watching = asyncio.ensure_future(hung_up(receive))
    both: set[asyncio.Future[Any]] = {waiting, watching}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
    if not waiting.done():
        raise ClientDisconnect


async def hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
