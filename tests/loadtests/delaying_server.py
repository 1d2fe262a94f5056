"""A server for tests, in a process of its own: how long it takes depends on the request alone.

    python delaying_server.py PORT

POST /classify?variant=V with `x-delay-ms` (10 where it is missing) answers after so long, `timings_ms` says so; with
`x-status` it answers that. An image's delay is 20 to 80 ms by its number of bytes. `x-stall-s` keeps all answers, also
those of others, back for so long. GET /variants names one. POST /die ends the process at once, /silence answers never.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import httptools


class Answering(asyncio.Protocol):
    free_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)
        self.headers: dict[str, str] = {}

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers = {}

    def on_url(self, url: bytes) -> None:
        self.url = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_message_complete(self) -> None:
        loop = asyncio.get_running_loop()
        if self.url == "/die":
            os._exit(1)
        if self.url == "/silence":
            return
        length = int(self.headers.get("content-length", 0))
        by_image = 20 + length % 7 * 10 if self.headers.get("content-type") == "image/jpeg" else 10
        delay_ms = float(self.headers.get("x-delay-ms", by_image))
        if "x-stall-s" in self.headers:
            Answering.free_at = loop.time() + float(self.headers["x-stall-s"])
        loop.call_at(max(loop.time() + delay_ms / 1e3, Answering.free_at), self.answer, self.headers, delay_ms)

    def answer(self, headers: dict[str, str], delay_ms: float) -> None:
        variant = self.url.partition("variant=")[2]
        if self.url == "/variants":
            self.write(200, {"variants": [{"variant": "resnet20-preact"}]}, "")
            return
        said = {
            "variant": variant,
            "model_name": self.url.split("/")[-2],
            "timings_ms": {"queue": 0.5, "infer": delay_ms},
        }
        status = int(headers.get("x-status", 200))
        refused = {"error": "overloaded", "message": f"the request had {headers.get('content-length')} bytes"}
        close = "connection: close\r\n" if "x-close" in headers else ""
        self.write(status, said if status == 200 else refused, close)
        if close:
            self.transport.close()

    def write(self, status: int, content: object, close: str) -> None:
        body = json.dumps(content)
        self.transport.write(f"HTTP/1.1 {status} X\r\n{close}content-length: {len(body)}\r\n\r\n{body}".encode())


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
