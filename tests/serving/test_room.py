"""The bodies of requests have room for so many bytes in a worker, whole or on their way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from serving.errors import RequestError
from serving.http_api import HttpApi
from serving.room import Room
from tests.serving.test_http_api import encoded, opening

LARGE = encoded("BMP", size=(450, 450))
MOST = 1_400_000
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


def test_what_has_come_of_some_bodies_leaves_so_much_less_to_others(exported_pair: tuple[str, str]) -> None:
    limits = dict.fromkeys(("max_image_bytes", "max_tensor_bytes", "max_batch_bytes"), MOST // 2)

    async def scenario(api: HttpApi) -> list[tuple[int, Any]]:
        may_go_on = asyncio.Event()
        slow = [asyncio.create_task(ask(api, LARGE[:-9], LARGE[-9:], may_go_on=may_go_on)) for _ in range(2)]
        await asyncio.sleep(0)
        meanwhile = [await ask(api, LARGE), await ask(api, LARGE[:-9], LARGE[-9:]), await ask(api, encoded())]
        may_go_on.set()
        return [*meanwhile, *await asyncio.gather(*slow), await ask(api, LARGE)]

    with opening(exported_pair[:1], max_held_bytes=MOST, **limits) as opened:
        answers = asyncio.run(scenario(HttpApi(PlainTextResponse(""), opened)))
        assert opened.room.held == 0
    assert [status for status, _ in answers] == [429, 429, 200, 200, 200, 200]
    assert answers[0][1]["found"] == f"{2 * len(LARGE) - 18} bytes of bodies are held"


def test_bodies_in_pieces_leave_room_for_whole_ones() -> None:
    room = Room(1600)
    room.take(1500, is_whole=False)
    with pytest.raises(RequestError):
        room.take(1, is_whole=False)
    room.take(100, is_whole=True)
    with pytest.raises(RequestError):
        room.take(1, is_whole=True)
    room.give_back(1600)
    assert room.held == 0
