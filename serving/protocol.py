"""uvicorn's HTTP protocol with a limit on what comes before a request: the bytes of its head, and how long they take.

uvicorn has neither with httptools: a head without end fills memory, and connections that send nothing stay for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.config import Settings

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
REQUEST_LINE = 8 << 10  # beside the headers


class BoundedProtocol(HttpToolsProtocol):
    """A timer runs only while a head is awaited, which for most requests is never: they come whole."""

    settings: Settings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.in_head, self.head_bytes = True, 0
        self.timer: asyncio.TimerHandle | None = None
        self.await_head()

    def on_message_begin(self) -> None:
        self.in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.in_head, self.head_bytes = False, 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.in_head:
            self.stop_waiting()
            return
        self.head_bytes += len(data)
        if self.head_bytes > self.settings.max_header_bytes + REQUEST_LINE:
            self.refuse(TOO_LARGE)
        elif self.timer is None:
            self.await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)

    def await_head(self) -> None:
        self.timer = self.loop.call_later(self.settings.max_receive_ms / 1e3, self.refuse, TOO_SLOW)

    def stop_waiting(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def refuse(self, response: bytes) -> None:
        self.stop_waiting()
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()


def bound_connections(settings: Settings) -> None:
    """Of this process, before uvicorn is configured; BentoML passes it no protocol, so that it takes this one."""
    BoundedProtocol.settings = settings
    chosen: Any = auto
    chosen.AutoHTTPProtocol = BoundedProtocol
