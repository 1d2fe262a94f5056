"""What a worker has opened, and how much of it is in use."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.cuda import DeviceError
from serving.call import Call
from serving.classifier import Classifier, Served
from serving.config import Settings
from serving.cycle import has_come
from serving.errors import RequestError, overloaded
from serving.keys import Keys
from serving.metrics import metrics
from serving.room import Room
from serving.runners.base import Runner
from serving.shadow import Shadow
from serving.work import Lane, Work

logger = logging.getLogger("bentoml.serve")

RECEIVING_PER_IN_FLIGHT = 16
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
    client: Any = field(default=None, init=False)  # the last one, by its connection's address and port
    shadow: Shadow = field(default_factory=Shadow, init=False)

    @cached_property
    def room(self) -> Room:
        return Room(self.settings.max_held_bytes)

    @cached_property
    def settings(self) -> Settings:
        """Of what was opened; not looked for sooner, since defaults depend on whether there is a GPU."""
        return self.classifier.settings if self.classifier is not None else defaults()

    def open(self, classifier: Classifier) -> None:
        self.classifier, self.settings = classifier, classifier.settings
        self.room = Room(self.settings.max_held_bytes)

    @property
    def is_ready(self) -> bool:
        return self.classifier is not None and self.is_live and not self.draining

    @property
    def is_live(self) -> bool:
        """Whether there is hope: only a restart helps a device that has failed."""
        return self.classifier is None or self.classifier.fault is None

    def ready(self) -> Classifier:
        """While it drains, a worker answers what still comes."""
        if self.classifier is None:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the models are not open; the log says why")
        return self.classifier

    async def receive(self, call: Call, lane: Lane, body: Coroutine[Any, Any, Result]) -> Result:
        """Bodies on their way are counted apart: slow clients must not keep out those whose bodies are there."""
        try:
            self.admit(lane, call.deadline)  # no use in receiving what would be refused
            if not has_come(call.receive):
                admit(self.receiving, RECEIVING_PER_IN_FLIGHT * self.settings.max_in_flight)
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

    def admit(self, lane: Lane, deadline: float) -> None:
        """Raises RequestError 429 where too many are here, or nobody who comes now would be answered by then."""
        admit(self.in_flight, self.settings.max_in_flight)
        lane.admit(deadline)

    def is_alone(self, call: Call) -> bool:
        """Whether nobody else is here, and the last one who asked this came over the same connection.

        Clients that a proxy lets share one come one after the other.
        """
        last, self.client = self.client, call.scope.get("client")
        return last is not None and last == self.client and not self.in_flight and not self.receiving

    async def run(self, lane: Lane, work: Work[Result], here: bool = False) -> Result:
        """Its answer, unless too many wait already; `here`: on the event loop, where the lane would have it so.

        A task that is cancelled, at its deadline or since its client is gone, leaves the queue. Work that a thread has
        begun counts until it ends.
        """
        admit(self.in_flight, self.ready().settings.max_in_flight)  # others may have come first meanwhile
        lane.admit(work.deadline)
        self.in_flight += 1
        work.on_release = self.released
        try:
            if not (here and lane.run_here(work)):
                lane.submit(work)
            return await work.answer
        except DeviceError as error:
            logger.error("inference failed: %s", error)
            message = "what runs the models failed; the log has the details"
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "device_failed", message) from None
        finally:
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


def admit(held: int, most: int) -> None:
    if held >= most:
        raise overloaded(f"{held} requests are held", f"up to {most} at once")
