"""Who has the service to itself is answered without a thread, where that takes little time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from serving.http_api import HttpApi
from serving.opened import Opened
from serving.shares import Shares
from serving.work import Work
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening

SMALL, LARGE = encoded("JPEG"), encoded("JPEG", (300, 300))


@pytest.fixture
def opened(exported_pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Whose inferences are short, whatever this machine is."""
    monkeypatch.setattr("serving.classifier.seconds_alone", lambda narrow, crop: 0.001)
    with opening(exported_pair) as opened:
        yield opened


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether it was run on the event loop, of each request for which that was thought of."""
    found: list[bool] = []
    run_here = Shares.run_here

    def look(self: Shares, work: Work[Any]) -> bool:
        found.append(run_here(self, work))
        return found[-1]

    monkeypatch.setattr(Shares, "run_here", look)
    return found


async def ask(
    opened: Opened, client: tuple[str, int] | None = ("10.0.0.1", 5000), body: bytes = SMALL, path: str = "/classify",
    content_type: bytes = b"",
) -> dict[str, Any]:  # fmt: skip
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", content_type)] if content_type else []
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, "client": client}
    api: Any = HttpApi
    await api(None, opened)(scope, receive, send)
    answer: dict[str, Any] = json.loads(sent[1]["body"])
    return {"status": sent[0]["status"]} | answer


async def settled(opened: Opened) -> None:
    while not opened.ready().threads.rest():
        await asyncio.sleep(0.001)


def test_from_its_second_request_on_a_connection_needs_no_thread(opened: Opened, here: list[bool]) -> None:
    async def scenario() -> list[Any]:
        await settled(opened)
        first = await ask(opened)
        await settled(opened)
        return [first, await ask(opened), await ask(opened)]

    answers = asyncio.run(scenario())
    assert here == [True, True]
    assert [each["status"] for each in answers] == [200, 200, 200]
    assert answers[0]["predictions"] == answers[1]["predictions"] == answers[2]["predictions"]
    assert (opened.in_flight, opened.answered) == (0, 3)


def test_who_needs_no_thread_is_spread_over_them(opened: Opened, here: list[bool]) -> None:
    spread: list[int] = []
    lane: Any = opened.ready().served[PAIR[0]].lane
    lane.spread = SimpleNamespace(infer=lambda images: spread.append(len(images)) or lane.runner.infer(images))

    async def scenario() -> None:
        for _ in range(3):
            await settled(opened)
            assert (await ask(opened))["status"] == 200

    asyncio.run(scenario())
    assert here == [True, True]
    assert spread == [1, 1, 1]


@pytest.mark.parametrize(
    "clients",
    [
        [("10.0.0.1", 5000), ("10.0.0.1", 5001), ("10.0.0.1", 5000)],  # in turns: a core would stand idle
        [None, None],
    ],
)
def test_where_another_may_come_threads_are_asked(
    opened: Opened, here: list[bool], clients: list[tuple[str, int] | None]
) -> None:
    async def scenario() -> None:
        for client in clients:
            await settled(opened)
            assert (await ask(opened, client))["status"] == 200

    asyncio.run(scenario())
    assert here == []


@pytest.mark.parametrize("body", [LARGE, encoded(), b"\xff\xd8\xff broken"])
def test_what_may_take_long_to_decode_is_left_to_threads(opened: Opened, here: list[bool], body: bytes) -> None:
    async def scenario() -> list[Any]:
        await settled(opened)
        return [await ask(opened, body=body) for _ in range(2)]

    assert len({each["status"] for each in asyncio.run(scenario())}) == 1
    assert here == []


def test_who_comes_while_a_thread_is_at_it_is_not_run_here(opened: Opened, here: list[bool]) -> None:
    async def scenario() -> None:
        await ask(opened)
        await settled(opened)
        threads = opened.ready().threads
        idle, threads.idle = threads.idle, []
        assert (await asyncio.gather(ask(opened), resting(opened, idle)))[0]["status"] == 200

    asyncio.run(scenario())
    assert here == [False]


async def resting(opened: Opened, idle: Any) -> None:
    threads = opened.ready().threads
    threads.idle = idle
    threads.wake()


def test_images_of_a_batch_are_not_run_one_after_another(opened: Opened, here: list[bool]) -> None:
    boundary = b"b"
    part = b'--b\r\ncontent-disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n' + SMALL + b"\r\n"
    form = b"multipart/form-data; boundary=" + boundary

    async def scenario() -> dict[str, Any]:
        await ask(opened)
        await settled(opened)
        return await ask(opened, body=part * 3 + b"--b--\r\n", path="/classify/batch", content_type=form)

    assert [each["status"] for each in asyncio.run(scenario())["results"]] == [200, 200, 200]
    assert here == []


def test_a_failing_image_is_told_as_by_a_thread(opened: Opened, here: list[bool]) -> None:
    """Its header promises what the rest does not keep."""

    async def scenario() -> list[Any]:
        await settled(opened)
        first = await ask(opened, body=SMALL[:-200])
        await settled(opened)
        return [first, await ask(opened, body=SMALL[:-200])]

    by_thread, by_loop = asyncio.run(scenario())
    assert here == [True]
    assert by_thread == by_loop
    assert by_loop["status"] == 400
    assert opened.in_flight == 0


@pytest.mark.parametrize(("opening_s", "lately_s"), [(0.004, 0.001), (0.001, 0.02)])
def test_a_long_inference_is_left_to_threads(
    exported_pair: tuple[str, str], here: list[bool], monkeypatch: pytest.MonkeyPatch, opening_s: float, lately_s: float
) -> None:
    """Whether it was found to be long at opening, or has been since."""
    monkeypatch.setattr("serving.classifier.seconds_alone", lambda narrow, crop: opening_s)

    async def scenario(opened: Opened) -> None:
        for _ in range(2):
            await settled(opened)
            assert (await ask(opened))["variant"] == PAIR[0]

    with opening(exported_pair) as opened:
        lane: Any = opened.ready().served[PAIR[0]].lane
        lane.took_each = lambda seconds: None
        lane.expected_s = lately_s
        asyncio.run(scenario(opened))
    assert here == [False]
