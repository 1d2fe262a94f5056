"""The page for people: files beside this module, read once, and sent with leave to load nothing from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from starlette.responses import Response

from serving.call import Call

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """Browsers keep it, and ask every time whether it is the same still: a new version is seen at once."""

    content: bytes
    media_type: str
    etag: str

    async def __call__(self, call: Call) -> Response:
        headers = SECURITY | {"etag": self.etag, "cache-control": "no-cache"}
        known = [tag.strip().removeprefix("W/") for tag in call.header(b"if-none-match").split(",")]
        if self.etag in known:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def read_page() -> dict[str, StaticFile]:
    """By file name."""
    return {path.name: read(path) for path in sorted(FOLDER.iterdir())}


def read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
