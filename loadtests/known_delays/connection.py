"""HTTP, as far as clients of load tests speak it."""

from __future__ import annotations

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httptools

from loadtests.known_delays.service import Asked, Service, refusal

PATHS = ("GET /readyz", "GET /variants", "POST /classify", "GET /delays", "POST /delays/reset")


class Connection(asyncio.Protocol):
    """Kept between requests, which come one at a time."""

    transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        self.service, self.url = service, b""
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its classes

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.answer(HTTPStatus.BAD_REQUEST, refusal("malformed_request", str(error)))
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url = b""

    def on_url(self, part: bytes) -> None:
        self.url += part

    def on_message_complete(self) -> None:
        received_s = time.perf_counter()
        parts = urlsplit(self.url.decode("latin-1"))
        match f"{self.parser.get_method().decode()} {parts.path}":
            case "POST /classify":
                self.classify(parse_qs(parts.query).get("variant"), received_s)
            case "GET /readyz":
                self.answer(HTTPStatus.OK, {})
            case "GET /variants":
                self.answer(HTTPStatus.OK, self.service.listed())
            case "GET /delays":
                self.answer(HTTPStatus.OK, self.service.delays())
            case "POST /delays/reset":
                self.service.forget()
                self.answer(HTTPStatus.OK, {})
            case unknown:
                self.answer(HTTPStatus.NOT_FOUND, refusal("unknown_path", unknown, PATHS))

    def classify(self, asked_for: list[str] | None, received_s: float) -> None:
        served = self.service.variants
        name = asked_for[0] if asked_for else next(iter(served))
        if name in served:
            self.service.ask(Asked(served[name], received_s, self.answer))
        else:
            self.answer(HTTPStatus.NOT_FOUND, refusal("unknown_variant", name, served))

    def answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        """Nothing, where who asked is gone."""
        if self.transport.is_closing():
            return
        content = json.dumps(body, separators=(",", ":")).encode()
        head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
