"""What a worker has opened, and how much of it is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ParamSpec, TypeVar

from serving.classifier import Classifier
from serving.errors import RequestError
from serving.keys import Keys

RECEIVING_PER_IN_FLIGHT = 4
Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass
class Opened:
    """Empty until the worker is ready, and again once it closes."""

    classifier: Classifier | None = None
    keys: Keys | None = None
    pool: ThreadPoolExecutor | None = None
    in_flight: int = field(default=0, init=False)
    receiving: int = field(default=0, init=False)

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

    async def run(self, function: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs) -> Result:
        """In a thread of the pool, unless too many wait for one already."""
        admit(self.in_flight, self.ready().settings.max_in_flight)  # others may have come first meanwhile
        self.in_flight += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.pool, lambda: function(*arguments, **named))
        finally:
            self.in_flight -= 1


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
