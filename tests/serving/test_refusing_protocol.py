"""Requests in one piece: some refused while it is parsed, the others served as ever, and told if the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.responses import PlainTextResponse, Response
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import ServerState

from serving.config import Settings
from serving.cycle import Cycle
from serving.http_api import HttpApi
from serving.protocol import REQUEST_LINE, BoundedProtocol
from tests.serving.test_http_api import opening

FULL = b"POST /classify HTTP/1.1\r\ncontent-length: 9\r\n\r\n"
EMPTY = b"POST /classify HTTP/1.1\r\n\r\n"
OTHER = b"GET /variants HTTP/1.1\r\n\r\n"
EXPLAIN = b"POST /explain HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


class Wire:
    """The other end keeps what it is sent."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.sent.endswith((b"CLOSED", b"ABORTED"))

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("10.0.0.1", 5000), "sockname": ("10.0.0.2", 3000)}.get(name)

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.sent += b"CLOSED"

    def abort(self) -> None:
        self.sent += b"ABORTED"

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


@pytest.fixture(autouse=True)
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whoever asks for a classification by the head alone; how many were asked."""
    asked: list[int] = []

    def refusal(scope: Any) -> Response | None:
        asked.append(1)
        return Response(b"full", 429) if scope["path"] == "/classify" else None

    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", Cycle)
    monkeypatch.setattr(BoundedProtocol, "settings", Settings.model_validate({"max_receive_ms": 100}), raising=False)
    monkeypatch.setattr(BoundedProtocol, "refusal", staticmethod(refusal), raising=False)
    return asked


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Once the scenario lets it, which is when it gives up the event loop."""
    await asyncio.sleep(0)
    await Response(repr(scope["client"]))(scope, receive, send)


def play(
    scenario: Callable[[BoundedProtocol, Wire], Awaitable[None]], wire: Wire | None = None, app: Any = answer
) -> None:
    async def run() -> None:
        config = uvicorn.Config(
            app, loop="none", lifespan="off", ws="none", log_level="warning", forwarded_allow_ips="*"
        )
        protocol, other = BoundedProtocol(config, ServerState(), {}, asyncio.get_running_loop()), wire or Wire()
        protocol.connection_made(other)  # type: ignore[arg-type]
        await scenario(protocol, other)
        protocol.connection_lost(None)

    asyncio.run(run())


def test_a_client_is_its_connection_whomever_a_proxy_speaks_for() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(OTHER[:-2] + b"x-forwarded-for: 10.9.9.9\r\n\r\n")
        await answered(wire, 1)
        assert wire.sent.endswith(repr(("10.0.0.1", 5000)).encode())

    play(scenario)


async def answered(wire: Wire, number: int) -> None:
    for _ in range(100 * number):
        if wire.sent.count(b"HTTP/1.1 ") == number:
            return
        await asyncio.sleep(0)
    raise AssertionError(wire.sent)


def test_who_comes_in_one_piece_with_a_refused_one_has_its_time() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(EMPTY)
        assert protocol.timeout_keep_alive_task is not None
        protocol.data_received(EMPTY + OTHER)
        assert wire.sent.count(b" 429 ") == 2
        assert (protocol.timeout_keep_alive_task, protocol.timer) == (None, None)
        await answered(wire, 3)

    play(scenario)


def test_however_many_are_sent_ahead_each_is_answered(refusing: list[int]) -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(OTHER + EMPTY * 1000)
        await answered(wire, 1001)

    play(scenario)
    assert len(refusing) == 1  # those that waited went the usual way


def test_however_many_bodies_are_on_their_way_who_has_sent_all_is_let_in(exported_pair: tuple[str, str]) -> None:
    head = b"POST /explain HTTP/1.1\r\ncontent-length: 8\r\n\r\n"

    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(head + b"no image")
        async with asyncio.timeout(10):
            while b"not_an_image" not in wire.sent:
                await asyncio.sleep(0.01)
        protocol.data_received(head + b"half")
        async with asyncio.timeout(10):
            while b"overloaded" not in wire.sent:
                await asyncio.sleep(0.01)

    with opening(exported_pair[:1]) as opened:
        opened.receiving = 10**6
        play(scenario, app=HttpApi(PlainTextResponse(""), opened))


def test_what_comes_with_the_rest_of_an_unread_body_has_its_time() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(FULL + b"1234")
        assert protocol.timer is not None
        protocol.data_received(b"56789" + OTHER)
        assert protocol.timer is None
        await answered(wire, 2)

    play(scenario)


def test_every_unread_body_has_a_time_of_its_own() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(FULL + b"1234")
        first = protocol.timer
        protocol.data_received(b"5")
        assert protocol.timer is first
        protocol.data_received(b"6789" + FULL + b"1234")
        assert first is not None
        assert first.cancelled()
        second = protocol.timer
        protocol.data_received(b"56789" + FULL[:9])
        assert second is not None
        assert second.cancelled()
        protocol.data_received(FULL[9:] + b"1234")
        protocol.data_received(b"56789")
        assert wire.sent.count(b" 429 ") == 3
        async with asyncio.timeout(10):
            while b"CLOSED" not in wire.sent:  # nothing comes any more
                await asyncio.sleep(0.01)

    play(scenario)


def test_who_does_not_read_is_not_asked(refusing: list[int]) -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.pause_writing()
        protocol.data_received(EMPTY)
        assert refusing == []
        protocol.resume_writing()
        await answered(wire, 1)

    play(scenario)


class Reading(Wire):
    """It knows whether it is read from; once it is gone nobody may ask for more."""

    is_read, is_gone = True, False

    def is_closing(self) -> bool:
        return self.is_gone

    def pause_reading(self) -> None:
        assert not self.is_gone
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_gone
        self.is_read = True


def test_nothing_is_read_while_requests_wait_for_their_turn() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Any) -> None:
        protocol.data_received(OTHER * 3)
        while wire.sent.count(b"HTTP/1.1 ") < 3:
            assert not (wire.is_read and protocol.pipeline)
            await asyncio.sleep(0)
        assert wire.is_read

    play(scenario, Reading())


def test_all_requests_of_a_connection_are_told_that_it_is_gone() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Any) -> None:
        protocol.data_received(OTHER * 3)
        asked = [protocol.active, *(cycle for cycle, _ in protocol.pipeline)]
        protocol.connection_lost(None)
        assert [cycle is not None and cycle.disconnected for cycle in asked] == [True, True, True]
        assert not protocol.pipeline

    play(scenario)


def test_of_what_nobody_has_parsed_when_the_client_goes_nothing_is_kept() -> None:
    failures: list[Any] = []

    async def scenario(protocol: BoundedProtocol, wire: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        protocol.data_received(OTHER * 2000)
        assert protocol.rest
        assert len(protocol.pipeline) < 1000
        assert not wire.is_read
        wire.is_gone = True
        protocol.connection_lost(None)
        protocol.parse()
        assert (protocol.rest, len(protocol.pipeline)) == (b"", 0)

    play(scenario, Reading())
    assert failures == []


def test_trailers_are_counted() -> None:
    """Not the body before them, in however small chunks it came."""

    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        most = protocol.settings.max_header_bytes + REQUEST_LINE
        protocol.data_received(b"POST /explain HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(most):
            for piece in (b"1\r\n", b"x", b"\r\n"):
                protocol.data_received(piece)
        protocol.data_received(b"0\r\n")  # 5 bytes behind the body, with the end of the last chunk
        for _ in range(most // 8 - 1):
            protocol.data_received(b"a: bcd\r\n")
        assert b"CLOSED" not in wire.sent
        protocol.data_received(b"a: bcd\r\n")
        assert wire.sent.startswith(b"HTTP/1.1 431 ")
        assert wire.sent.endswith(b"CLOSED")

    play(scenario)


@pytest.mark.parametrize(
    "unreadable",
    [b"\0garbage\r\n\r\n", EXPLAIN + b"no length\r\n", b"CONNECT any:1 HTTP/9\r\n\r\n"],
    ids=["no head", "no chunk", "no version"],
)
@pytest.mark.parametrize("whole", [1, 3])
def test_what_came_whole_is_answered(unreadable: bytes, whole: int) -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(OTHER * whole + unreadable)
        protocol.data_received(OTHER)
        await answered(wire, whole)
        assert wire.sent.endswith(b"CLOSED")

    play(scenario)


def test_a_head_that_is_not_finished_takes_no_answer() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(OTHER + OTHER[:9])
        protocol.look_after_head()
        assert wire.sent == b""
        await answered(wire, 1)
        assert wire.sent.endswith(b"CLOSED")

    play(scenario)


@pytest.mark.parametrize("target", [b"any:1", b"/variants"])
def test_what_follows_connect_is_no_request(target: bytes) -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(b"CONNECT %b HTTP/1.1\r\n\r\n" % target + OTHER)
        protocol.data_received(OTHER)
        await answered(wire, 1)
        assert wire.sent.endswith(b"CLOSED")

    play(scenario)


def test_a_connection_is_not_closed_on_a_body_that_still_comes() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(b"POST /classify HTTP/1.0\r\ncontent-length: 9\r\n\r\n1234")
        assert wire.sent.startswith(b"HTTP/1.1 429 ")
        assert not wire.is_closing()
        protocol.data_received(b"56789")
        assert wire.is_closing()

    play(scenario)


def test_a_body_that_cannot_be_read_is_answered_in_its_own_turn() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(EXPLAIN + b"no length\r\n")
        assert wire.sent.startswith(b"HTTP/1.1 400 ")
        assert wire.sent.endswith(b"CLOSED")

    play(scenario)


def test_between_refusals_others_have_their_turn() -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(EMPTY * 1000)
        assert wire.sent.count(b" 429 ") < 200
        await asyncio.sleep(0)
        assert wire.sent.count(b" 429 ") < 400
        await answered(wire, 1000)

    play(scenario)


def test_who_is_behind_the_last_answer_is_not_refused(refusing: list[int]) -> None:
    async def scenario(protocol: BoundedProtocol, wire: Wire) -> None:
        protocol.data_received(EMPTY[:-2] + b"connection: close\r\n\r\n" + EMPTY)
        assert wire.sent.count(b" 429 ") == 1

    play(scenario)
    assert len(refusing) == 1
