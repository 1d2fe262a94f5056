"""uvicorn's HTTP protocol, in order where it is not: requests that are sent ahead, trailers, upgrades, hang-ups.

uvicorn, with httptools, reads on while requests wait behind the one that is answered; takes trailers for headers; skips
the body of a request that offers an upgrade, as Java's client does by default, and reads it as the next request; and
tells only the last request of a connection that its client is gone.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

CONTENT_LENGTH = len("content-length")
NOT_OURS = {b"upgrade", b"http2-settings"}  # headers of an upgrade
PIECE = 4 << 10  # bytes that are parsed at once, beside those of a body; a request of 35 is 2.3 KB once it waits


class Flow(FlowControl):
    """Nothing is read while requests wait, parsed or not: without end they would fill memory."""

    def __init__(self, transport: asyncio.Transport, waits: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.waits = waits

    def resume_reading(self) -> None:
        if not self.waits():
            super().resume_reading()


class OrderlyProtocol(HttpToolsProtocol):
    """Upgrades are ignored, as RFC 9110 (section 7.8) lets a server do: nobody here speaks anything else."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: Flow = Flow(transport, lambda: bool(self.pipeline or self.rest))
        self.in_head, self.in_body = True, False
        self.has_advanced = False  # beyond the head, or the piece of a body, that it was at
        self.active: RequestResponseCycle | None = None  # the one that is answered; `cycle` is the last that came
        self.offers_upgrade = False
        self.is_deaf = False  # to all that follows what cannot be read
        self.piece = self.rest = memoryview(b"")
        self.will_parse = False
        self.to_come = 0  # bytes of a body, where its length was declared

    @property
    def owes_an_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:  # a trailer may not say what no header said: whoever examined those did not see it
            return
        super().on_header(name, value)
        if len(name) == CONTENT_LENGTH and self.headers[-1][0] == b"content-length" and value.isdigit():
            self.to_come = int(value[:18])

    def on_headers_complete(self) -> None:
        self.offers_upgrade = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        self.has_advanced = True
        if self.offers_upgrade:
            return
        super().on_headers_complete()
        self.in_head, self.in_body = False, True

    def on_body(self, body: bytes) -> None:
        self.has_advanced = True
        self.to_come -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.offers_upgrade:
            return
        self.in_body, self.has_advanced, self.to_come = False, True, 0
        super().on_message_complete()
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.close()  # only now: before, who still sends would lose its answer (`Cycle.write_whole`)

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        if not self.is_deaf:
            self.rest = memoryview(self.rest.tobytes() + data if self.rest else data)
            self.parse()

    def parse(self) -> None:
        """What has come, up to a request that has to wait; the rest once it need not.

        Where requests are answered at once, as those refused by their head are, others have their turn in between.
        """
        self.will_parse, held = False, self.flow.read_paused
        while self.rest and not (self.pipeline or self.will_parse or self.is_deaf or self.transport.is_closing()):
            size = max(PIECE, self.to_come)
            self.piece, self.rest = self.rest[:size], self.rest[size:]
            self.feed(self.piece)
        self.piece = memoryview(b"")
        if self.transport.is_closing():
            self.rest = memoryview(b"")
        elif self.rest:
            self.flow.pause_reading()
        elif held:
            self.flow.resume_reading()

    def feed(self, piece: memoryview) -> None:
        super().data_received(piece)  # type: ignore[arg-type]  # the parser takes any buffer

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.rest and not (self.pipeline or self.will_parse):
            self.will_parse = True
            self.loop.call_soon(self.parse)

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """The parser has stopped behind the head: once more, without the offer, and then what came with it."""
        stopped = sys.exception()
        if not self.offers_upgrade or stopped is None:  # CONNECT: what follows is for whom it would connect to
            self.end_with_answers()
            return
        self.offers_upgrade = False
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"
            if name not in NOT_OURS:
                lines += (name, b": ", value, b"\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has its own
        self.rest = memoryview(b"".join([*lines, b"\r\n", self.piece[stopped.args[0] :], self.rest]))

    def send_400_response(self, msg: str) -> None:
        """Unless it would be taken for another's answer."""
        if self.is_free_to_answer:
            super().send_400_response(msg)
        else:
            self.end_with_answers()

    @property
    def is_free_to_answer(self) -> bool:
        """Whether what is written now would be taken for the answer of what has just come."""
        if self.in_body and not self.pipeline:  # it is that one's body
            return not self.cycle.response_started
        return not (self.in_body or self.owes_an_answer)

    def end_with_answers(self) -> None:
        """Nothing more is read. Those whose requests came whole still get their answers."""
        self.is_deaf, self.rest = True, memoryview(b"")
        last = self.active
        if self.in_body:  # the last that came is not whole
            last = self.active if self.pipeline else None
            if self.pipeline:
                self.pipeline.popleft()
        if self.pipeline:
            last = self.pipeline[0][0]
        if last is None or last.response_complete:
            self.close()
            return
        self.cycle, last.keep_alive = last, False

    def close(self) -> None:
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.transport.is_closing():  # behind a request whose answer was the last
            return
        self.active = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        self.rest = memoryview(b"")
        self.flow.waits = lambda: False  # or it and the connection would hold each other; below, each that waits
        for cycle in waiting:
            cycle.on_response = lambda: None
        told = waiting if self.active is None else [self.active, *waiting]
        for cycle in told:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.active = None
