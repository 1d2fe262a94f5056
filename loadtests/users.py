"""Locust's users: the same sending as `run_load`, told to Locust's statistics request by request."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import gevent
from gevent.pool import Group
from locust import User, constant, tag, task
from locust.env import Environment

from loadtests.alarm import Alarm
from loadtests.load import GONE_S, gone
from loadtests.recording import Recording
from loadtests.results import Target
from loadtests.scenario import Payload
from loadtests.sending import Request, Sender, rendered
from loadtests.shares import Share


class RequestFailedError(Exception):
    """As Locust counts failures by."""


class Work:
    """What the users of one process share during a test, and what came of it since it was last handed on."""

    def __init__(
        self,
        environment: Environment,
        target: Target,
        images: Sequence[Payload],
        tensors: Sequence[Payload],
        patience_s: float,
        share: Share,
        on_finished: Callable[[], None],
    ) -> None:
        self.request, self.target = environment.events.request, target
        self.images = [rendered(payload, target) for payload in images]
        self.tensors = [rendered(payload, target) for payload in tensors]
        self.sender = Sender(target.host, patience_s=patience_s, origin=time.perf_counter())
        self.recording, self.users = Recording(), itertools.count()
        self.share, self.on_finished = share, on_finished
        self.seconds, self.incomplete = 0.0, ""  # of the schedule, once all is sent and answered

    def ask(self, request: Request, due_s: float | None = None) -> None:
        began = time.time()
        outcome = self.sender.send(request, due_s)
        self.recording.add(outcome)
        self.request.fire(  # type: ignore[no-untyped-call]
            request_type="POST",
            name=self.target.variant,
            response_time=(outcome.ended_s - outcome.due_s) * 1e3,
            response_length=outcome.received_bytes,
            exception=RequestFailedError(outcome.problem) if outcome.problem else None,
            context={},
            start_time=began,
            url=self.target.host,
        )

    def handed_on(self) -> Recording:
        """What was recorded since the last time."""
        recording, self.recording = self.recording, Recording()
        return recording


class ClosedUser(User):
    """A closed workload: the next request when the last is answered."""

    wait_time = constant(0)
    work: ClassVar[Work]
    upcoming: Iterator[int]

    def on_start(self) -> None:
        self.upcoming = itertools.count(next(self.work.users))  # users do not march in step

    @tag("closed")
    @task
    def classify(self) -> None:
        self.work.ask(self.work.images[next(self.upcoming) % len(self.work.images)])

    @tag("closed", "tensors")
    @task
    def infer(self) -> None:
        self.work.ask(self.work.tensors[next(self.upcoming) % len(self.work.tensors)])


class OpenUser(User):
    """An open workload: one user in each process sends its share of the schedule, and waits when it is done."""

    work: ClassVar[Work]
    outstanding: Group

    @tag("open")
    @task
    def classify(self) -> None:
        self.send_share(self.work.images)

    @tag("open", "tensors")
    @task
    def infer(self) -> None:
        self.send_share(self.work.tensors)

    def send_share(self, requests: Sequence[Request]) -> None:
        if not next(self.work.users):  # whoever comes second has nothing to do
            self.work.seconds = self.follow(self.work.share, requests)
            self.work.on_finished()
        while True:
            gevent.sleep(3600)

    def follow(self, share: Share, requests: Sequence[Request]) -> float:
        """When it ended, in seconds."""
        work, due_s = self.work, 0.0
        work.sender.origin = time.perf_counter()
        with Alarm() as alarm:
            for number, due_s in share.due():
                alarm.wait(work.sender.origin + due_s)
                if work.sender.unreachable_s > GONE_S:
                    work.incomplete = gone(work.sender, work.target)
                    break
                self.outstanding.spawn(work.ask, requests[number % len(requests)], due_s)
        self.outstanding.join()
        return due_s if math.isinf(share.seconds) or work.incomplete else share.seconds

    def on_start(self) -> None:
        self.outstanding = Group()

    def on_stop(self) -> None:
        self.outstanding.kill()
