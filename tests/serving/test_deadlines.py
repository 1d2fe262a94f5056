"""Deadlines and clients that hang up: what has not begun leaves the queue, what has begun counts until it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from serving.call import Call, Vain, Watch
from serving.classifier import Classifier
from serving.config import Settings
from serving.http_api import HttpApi
from serving.opened import Opened
from serving.runners.machine import Machine
from tests.serving.test_http_api import encoded

HEADER = b"x-request-timeout-ms"


class Held(Classifier):
    """Each image waits to be decoded until it is let go; `begun` has the number of those that a thread took."""

    def __init__(self, tags: tuple[str, ...], **limits: object) -> None:
        limits = {"threads": 1, "max_timeout_ms": 20_000} | limits
        super().__init__(tags, Settings.model_validate(limits), Machine())
        self.begun = 0
        self.let_go = threading.Semaphore(0)

    def decode(self, *arguments: Any) -> Any:
        self.begun += 1
        assert self.let_go.acquire(timeout=20)
        return super().decode(*arguments)


@pytest.fixture
def opened(exported_pair: tuple[str, str]) -> Iterator[Opened]:
    """One thread, so that a second request has to queue."""
    classifier = Held(exported_pair[:1])
    yield Opened(classifier)
    classifier.let_go.release(100)
    classifier.close()


class Client:
    """One request in this process; `hang_up` closes its connection."""

    def __init__(self, opened: Opened, timeout_ms: str | None = None, path: str = "/classify") -> None:
        self.opened, self.gone, self.path = opened, asyncio.Event(), path
        self.headers = [] if timeout_ms is None else [(HEADER, timeout_ms.encode())]
        self.sent: list[Any] = []
        self.body_read = False
        self.task = asyncio.ensure_future(self.ask())

    async def ask(self) -> None:
        scope = {
            "type": "http", "method": "POST", "path": self.path, "query_string": b"", "headers": self.headers
        }  # fmt: skip
        await HttpApi(None, self.opened)(scope, self.receive, self.send)  # type: ignore[arg-type]

    async def receive(self) -> dict[str, Any]:
        if not self.body_read:
            self.body_read = True
            return {"type": "http.request", "body": encoded(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def hang_up(self) -> None:
        self.gone.set()

    async def answer(self) -> tuple[int | None, dict[str, Any]]:
        """Status and body; no status where nothing was sent."""
        await asyncio.wait_for(self.task, 10)
        return (self.sent[0]["status"], json.loads(self.sent[1]["body"])) if self.sent else (None, {})


def held(opened: Opened) -> Held:
    assert isinstance(opened.classifier, Held)
    return opened.classifier


async def until_begun(opened: Opened, count: int) -> None:
    while held(opened).begun < count:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(("timeout_ms", "status", "lasts_s"), [(None, 200, 0.2), ("300", 504, 0.3)])
def test_once_a_body_is_there_the_deadline_alone_counts(
    timeout_ms: str | None, status: int, lasts_s: float, exported_pair: tuple[str, str]
) -> None:
    """Also beyond the time that a body may take."""
    classifier = Held(exported_pair[:1], max_receive_ms=50)
    opened = Opened(classifier)

    async def scenario() -> float:
        begun = time.perf_counter()
        client = Client(opened, timeout_ms)
        if status == 200:
            await asyncio.sleep(lasts_s)
            classifier.let_go.release()
        assert (await client.answer())[0] == status
        return time.perf_counter() - begun

    try:
        assert asyncio.run(scenario()) >= lasts_s
    finally:
        classifier.let_go.release(100)
        classifier.close()


def test_a_deadline_takes_what_waits_off_the_queue(opened: Opened) -> None:
    async def scenario() -> None:
        first = Client(opened)
        await until_begun(opened, 1)
        second = Client(opened, "50")
        status, body = await second.answer()
        assert status == 504
        assert body["error"] == "deadline_exceeded"
        assert "not answered within 50 ms" in body["message"]
        assert opened.in_flight == 1
        held(opened).let_go.release(2)
        assert (await first.answer())[0] == 200
        third = Client(opened)
        assert (await third.answer())[0] == 200
        assert held(opened).begun == 2  # the second never was

    asyncio.run(scenario())
    assert opened.in_flight == 0


@pytest.mark.parametrize("path", ["/classify", "/explain"])
def test_what_waits_is_counted_wherever_it_goes(opened: Opened, path: str) -> None:
    async def scenario() -> int:
        first = Client(opened, path=path)
        await until_begun(opened, 1)
        others = [Client(opened, path=path) for _ in range(3)]
        while opened.in_flight < 1 + len(others):
            await asyncio.sleep(0.001)
        depth = held(opened).queue_depth
        held(opened).let_go.release(1 + len(others))
        assert [(await client.answer())[0] for client in (first, *others)] == [200] * 4
        return depth

    assert asyncio.run(scenario()) == 3


def test_who_would_wait_beyond_the_deadline_is_refused_before_the_body_is_read(opened: Opened) -> None:
    async def scenario() -> None:
        first = Client(opened)
        await until_begun(opened, 1)
        second = Client(opened)
        while not held(opened).queue_depth:
            await asyncio.sleep(0.001)
        lane: Any = next(iter(held(opened).served.values())).lane
        lane.expected_s = 8.0
        third = Client(opened, "19000")
        status, body = await third.answer()
        assert (status, body["error"], third.body_read) == (429, "overloaded", False)
        assert body["found"] == "1 requests wait, 24000 ms"
        lane.expected_s = 0.0
        held(opened).let_go.release(2)
        assert [(await each.answer())[0] for each in (first, second)] == [200, 200]

    asyncio.run(scenario())


def test_work_that_has_begun_counts_until_it_ends(opened: Opened) -> None:
    async def scenario() -> None:
        first = Client(opened, "50")
        await until_begun(opened, 1)
        assert (await first.answer())[0] == 504
        assert opened.in_flight == 1
        held(opened).let_go.release()
        while opened.in_flight:
            await asyncio.sleep(0.001)

    asyncio.run(scenario())


def test_a_client_that_hangs_up_leaves_the_queue(opened: Opened) -> None:
    async def scenario() -> None:
        first = Client(opened)
        await until_begun(opened, 1)
        second = Client(opened)
        while opened.in_flight < 2:
            await asyncio.sleep(0.001)
        second.hang_up()
        assert await second.answer() == (None, {})
        assert opened.in_flight == 1
        held(opened).let_go.release(2)
        assert (await first.answer())[0] == 200
        assert (await Client(opened).answer())[0] == 200
        assert held(opened).begun == 2

    asyncio.run(scenario())
    assert opened.in_flight == 0


def test_a_body_that_does_not_come_meets_the_deadline_as_well(opened: Opened) -> None:
    async def scenario() -> None:
        slow = Client(opened, "50")
        slow.body_read = True  # what it sends next is that it is gone, which it does not
        assert (await slow.answer())[0] == 504
        assert opened.receiving == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("receive_s", "patience_s", "received", "gone", "found"),
    [
        (0.02, 9.0, False, False, Vain.SLOW_BODY),
        (9.0, 0.02, False, False, Vain.TOO_LATE),
        (0.02, 0.3, True, False, Vain.TOO_LATE),
        (9.0, 9.0, True, True, Vain.GONE),
    ],
)
def test_a_watch_tells_what_it_found_whatever_happens_before_its_task_learns_of_it(
    receive_s: float, patience_s: float, received: bool, gone: bool, found: Vain
) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"} if gone else await asyncio.Event().wait()

    async def scenario() -> None:
        call = Call({}, receive, {}, time.perf_counter() + patience_s, received)
        watch = Watch(call, receive_s)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(10)
        call.received, call.deadline = True, 0.0
        watch.stop()
        assert watch.ended()
        assert watch.found is found

    asyncio.run(scenario())


def test_who_is_cancelled_by_another_as_well_is_not_the_watchs_alone() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def scenario() -> None:
        watch = Watch(Call({}, receive, {}, time.perf_counter() + 9.0), 9.0)
        task = asyncio.current_task()
        assert task is not None
        watch.end(Vain.TOO_LATE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(10)
        watch.stop()
        assert not watch.ended()
        task.uncancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "soon", "²", "1" * 10])
def test_a_deadline_that_is_none_is_refused(opened: Opened, text: str) -> None:
    async def scenario() -> None:
        status, body = await Client(opened, text).answer()
        assert status == 400
        assert body["error"] == "bad_timeout"
        assert body["accepted"] == ["1 to 20000"]

    asyncio.run(scenario())


def test_the_service_has_less_patience_than_any_client(exported_pair: tuple[str, str]) -> None:
    classifier = Held(exported_pair[:1], max_timeout_ms=50)

    async def scenario(opened: Opened) -> None:
        assert (await Client(opened, "60000").answer())[0] == 504

    asyncio.run(scenario(Opened(classifier)))
    classifier.let_go.release()
    classifier.close()


@pytest.mark.parametrize(
    ("body", "status"), [(encoded(), 200), (b"no image", 400), (b"", 400), (encoded("JPEG")[:200], 400)]
)
def test_a_request_leaves_nothing_to_the_collector(opened: Opened, body: bytes, status: int) -> None:
    """Circles would pile up until it stops the whole worker, which the slowest answers show; and each holds a body."""
    held(opened).let_go.release(100)
    api = HttpApi(None, opened)  # type: ignore[arg-type]

    async def ask() -> None:
        scope = {"type": "http", "method": "POST", "path": "/classify", "query_string": b"", "headers": []}
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        statuses: list[int] = []

        async def receive() -> Any:
            return messages.pop()

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        await api(scope, receive, send)
        assert statuses[0] == status

    async def scenario() -> list[str]:
        """Kinds of what 20 of them leave."""
        await asyncio.create_task(ask())
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(20):
                await asyncio.create_task(ask())
            gc.collect()
            return [type(each).__name__ for each in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    found = asyncio.run(scenario())
    assert len(found) < 20, Counter(found)
