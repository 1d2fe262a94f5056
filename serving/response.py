"""What goes back. Starlette's response can more, and takes a tenth of the time that the edge takes in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.types import Send

JSON = "application/json"


@dataclass(slots=True)
class Response:
    body: bytes
    status: int = HTTPStatus.OK
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, send: Send, *more: tuple[bytes, bytes]) -> None:
        headers = [
            (b"content-type", self.media_type.encode()),
            (b"content-length", b"%d" % len(self.body)),
            *((name.encode(), value.encode()) for name, value in self.headers.items()),
            *more,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
