"""uvicorn's HTTP protocol with a limit on what it waits for, and a look at who need not be asked in.

uvicorn, with httptools, limits neither the bytes of a head nor how long they take: a head without end fills memory, and
connections that send nothing, or read nothing, stay for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http import auto, httptools_impl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.config import Settings
from serving.cycle import Cycle
from serving.orderly import OrderlyProtocol

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
REQUEST_LINE = 8 << 10  # beside the headers
LINGERS_S = 1.0  # who is answered before its body is there and sends nothing more; all such, once the worker leaves


class BoundedProtocol(OrderlyProtocol):
    """A timer runs only while a head is awaited, a body that nobody reads, or a client that does not read: hardly ever.

    Of a body that is read, `serving/call.py` watches the time.
    """

    settings: Settings
    refusal: Callable[[Scope], Response | None]  # of who need not be asked in, by the head of a request

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.access_log = False  # uvicorn's, which would be put together for every request, though nobody prints it
        if isinstance(self.app, ProxyHeadersMiddleware):  # whom a proxy speaks for, nobody here asks; 4 us a request
            self.app = self.app.app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.bytes = 0  # of a head, or of what comes behind a body, its trailers
        self.is_parsing = False
        self.unread: Any = None  # the cycle of a body that nobody reads, and whether it is there, while a timer runs
        self.timer: asyncio.TimerHandle | None = None
        self.writing: asyncio.TimerHandle | None = None
        self.is_leaving = False
        self.await_head()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Unless it is refused at once. Who has waited behind others is not asked: each would call for the next."""
        cycle.keep_alive = cycle.keep_alive and not self.is_leaving
        if self.is_parsing and isinstance(cycle, Cycle) and cycle.may_write and not self.transport.is_closing():
            scope: Any = cycle.scope
            response = type(self).refusal(scope)
            if response is not None and cycle.write_whole(response):
                return
        self._unset_keepalive_if_required()  # which a refusal may have armed that came in the same piece
        super()._start_asgi_task(cycle, app)

    def feed(self, piece: memoryview) -> None:
        self.is_parsing, self.has_advanced = True, False
        try:
            super().feed(piece)
        finally:
            self.is_parsing = False
        self.bytes = 0 if self.has_advanced else self.bytes + len(piece)
        if self.is_deaf:
            self.stop_waiting()
        elif self.bytes > self.settings.max_header_bytes + REQUEST_LINE:
            self.refuse(TOO_LARGE)
        elif not self.in_head:
            self.look_after_body()
        elif self.unread is not None or self.timer is None:
            self.stop_waiting()
            self.await_head()

    def look_after_body(self) -> None:
        """One that nobody reads may take as long as another, and so may what follows it: uvicorn waits for neither."""
        answered = self.cycle is not None and self.cycle.response_complete
        if answered and self.unread == (self.cycle, self.in_body):
            return
        self.stop_waiting()
        if answered and (self.in_body or self.timeout_keep_alive_task is None):
            self.unread = self.cycle, self.in_body
            patience_s = LINGERS_S if self.is_leaving else self.settings.max_receive_ms / 1e3
            self.timer = self.loop.call_later(patience_s, self.close)

    # A client that does not read has as long as one that does not send.

    def pause_writing(self) -> None:
        super().pause_writing()
        self.await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writing is not None and not self.transport.is_closing():
            self.writing.cancel()
            self.writing = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.close()
        elif self.cycle.response_complete and not self.cycle.keep_alive:  # closed once its body is there, or in time
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(LINGERS_S, self.close)

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def shutdown(self) -> None:
        """Who has connected and not asked yet was let in as well, and has a moment to."""
        self.is_leaving = True
        if self.cycle is None:
            self.loop.call_later(LINGERS_S, self.leave_unasked)
            return
        super().shutdown()
        if self.transport.is_closing():
            self.close()

    def leave_unasked(self) -> None:
        if self.cycle is None:
            self.close()

    def await_reader(self) -> None:
        if self.writing is None:
            self.writing = self.loop.call_later(self.settings.max_receive_ms / 1e3, self.transport.abort)

    def close(self) -> None:
        """Once what is written has been read, or in time."""
        if not self.transport.is_closing():
            self.transport.close()
        if self.transport.get_write_buffer_size():
            self.await_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        if self.writing is not None:
            self.writing.cancel()
        super().connection_lost(exc)

    def await_head(self) -> None:
        self.timer = self.loop.call_later(self.settings.max_receive_ms / 1e3, self.look_after_head)

    def look_after_head(self) -> None:
        if self.flow.read_paused:  # it is ours that keeps it waiting
            self.await_head()
        else:
            self.refuse(TOO_SLOW)

    def stop_waiting(self) -> None:
        self.unread = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def refuse(self, response: bytes) -> None:
        """With no word to who might take it for another answer."""
        self.stop_waiting()
        if not self.is_free_to_answer:
            self.end_with_answers()
        else:
            if not self.transport.is_closing():
                self.transport.write(response)
            self.close()


def bound_connections(settings: Settings, refusal: Callable[[Scope], Response | None]) -> None:
    """Of this process, before uvicorn is configured; BentoML passes it no protocol, so that it takes this one."""
    BoundedProtocol.settings, BoundedProtocol.refusal = settings, staticmethod(refusal)
    chosen: Any = auto
    chosen.AutoHTTPProtocol = BoundedProtocol
    theirs: Any = httptools_impl
    theirs.RequestResponseCycle = Cycle
