"""What a worker has opened, and how much of it is in use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import cache, partial
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from export.cuda import DeviceError
from serving.call import Call
from serving.classifier import Classifier, Served
from serving.config import Settings
from serving.errors import RequestError, overloaded
from serving.keys import Keys
from serving.metrics import metrics
from serving.runners.base import Runner
from serving.shadow import Shadow
from serving.work import Lane, Work

logger = logging.getLogger("bentoml.serve")

RECEIVING_PER_IN_FLIGHT = 4
WATCHED_AFTER_S = 0.25  # to watch takes a task, 6 us; most answers come sooner
Result = TypeVar("Result")


@dataclass
class Opened:
    """Empty until the worker is ready, and again once it closes."""

    classifier: Classifier | None = None
    keys: Keys | None = None
    draining: bool = field(default=False, init=False)
    in_flight: int = field(default=0, init=False)
    receiving: int = field(default=0, init=False)
    answered: int = field(default=0, init=False)
    shadow: Shadow = field(default_factory=Shadow, init=False)

    @property
    def settings(self) -> Settings:
        return self.classifier.settings if self.classifier is not None else defaults()

    @property
    def is_ready(self) -> bool:
        return self.classifier is not None and self.classifier.fault is None and not self.draining

    def ready(self) -> Classifier:
        """While it drains, a worker answers what still comes."""
        if self.classifier is None:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the models are not open; the log says why")
        return self.classifier

    async def receive(self, call: Call, lane: Lane, body: Coroutine[Any, Any, Result]) -> Result:
        """Bodies on their way are counted apart: slow clients must not keep quick ones out."""
        most = self.settings.max_in_flight
        try:
            admit(self.in_flight, most)  # no use in receiving what would be refused
            admit(self.receiving, RECEIVING_PER_IN_FLIGHT * most)
            lane.admit(call.deadline)
        except RequestError:
            body.close()  # nobody will await it
            raise
        self.receiving += 1
        try:
            content = await body
        finally:
            self.receiving -= 1
        call.received = True  # from now on its deadline alone counts
        return content

    async def run(self, receive: Receive, lane: Lane, work: Work[Result]) -> Result:
        """Its answer, unless too many wait already.

        Who gives up leaves the queue: a client that hangs up, or a task that is cancelled at its deadline. Work that a
        thread has begun counts until it ends.
        """
        admit(self.in_flight, self.ready().settings.max_in_flight)  # others may have come first meanwhile
        lane.admit(work.deadline)
        self.in_flight += 1
        work.on_release = self.released
        lane.submit(work)
        watch = Watch(work.answer, receive)
        soon = work.loop.call_later(WATCHED_AFTER_S, watch.begin)
        try:
            return await work.answer
        except DeviceError as error:
            logger.error("inference failed: %s", error)
            message = "what runs the models failed; the log has the details"
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "device_failed", message) from None
        except asyncio.CancelledError:
            if watch.saw_hang_up:
                raise ClientDisconnect from None
            raise
        finally:
            soon.cancel()
            watch.end()
            work.leave()

    def released(self) -> None:
        self.in_flight -= 1

    def copy(self, primary: Served, best: int, images: NDArray[np.uint8]) -> None:
        """To the shadows of whoever has just answered."""
        classifier = self.ready()
        for name in classifier.routing.copies(primary.manifest.variant):
            runner = classifier.served[name].runner
            find = partial(best_class, runner, images)
            self.shadow.submit((primary.manifest.variant, name, best, find))

    def close(self) -> None:
        self.publish()
        classifier, self.classifier = self.classifier, None
        logger.info("closed; answered %d requests in all, %d left without an answer", self.answered, self.in_flight)
        self.shadow.close()
        if classifier is not None:
            classifier.close()

    def publish(self) -> None:
        metrics().publish(self.in_flight, 0 if self.classifier is None else self.classifier.queue_depth)


@cache
def defaults() -> Settings:
    return Settings.model_validate({})


def best_class(runner: Runner, images: NDArray[np.uint8]) -> int:
    return int(runner.infer(images)[0].argmax())


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
        raise overloaded(f"{held} requests are held", f"up to {most} at once")
