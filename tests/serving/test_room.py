"""The bodies of requests have room for so many bytes in a worker, whole or on their way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.responses import PlainTextResponse

from serving.http_api import HttpApi
from tests.serving.test_http_api import encoded, opening

LARGE = encoded("BMP", size=(450, 450))
MOST = 1_000_000
SCOPE = {"type": "http", "method": "POST", "path": "/classify", "query_string": b"", "headers": []}


async def ask(api: HttpApi, *pieces: bytes, may_go_on: asyncio.Event | None = None) -> tuple[int, Any]:
    """Status and answer; after its first piece the client waits for `may_go_on`."""
    sent: list[Any] = []
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        if may_go_on is not None and len(left) < len(pieces):
            await may_go_on.wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    await api(SCOPE, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_what_has_come_of_one_body_leaves_so_much_less_to_others(exported_pair: tuple[str, str]) -> None:
    assert MOST / 2 < len(LARGE) < MOST
    limits = {"max_image_bytes": MOST, "max_tensor_bytes": MOST, "max_batch_bytes": MOST, "max_held_bytes": MOST}

    async def scenario(api: HttpApi) -> list[tuple[int, Any]]:
        may_go_on = asyncio.Event()
        slow = asyncio.create_task(ask(api, LARGE[:-9], LARGE[-9:], may_go_on=may_go_on))
        await asyncio.sleep(0)
        meanwhile = [await ask(api, LARGE), await ask(api, LARGE[:-9], LARGE[-9:]), await ask(api, encoded())]
        may_go_on.set()
        return [*meanwhile, await slow, await ask(api, LARGE)]

    with opening(exported_pair[:1], **limits) as opened:
        answers = asyncio.run(scenario(HttpApi(PlainTextResponse(""), opened)))
        assert opened.room.held == 0
    assert [status for status, _ in answers] == [429, 429, 200, 200, 200]
    assert answers[0][1]["found"] == f"{len(LARGE) - 9} bytes of bodies are held"
