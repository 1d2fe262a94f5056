"""What the hot route costs by itself: CPU time of this service's application, with nothing to decode or to infer, over
that of a bare Starlette that answers as much, in one process and without sockets.

    python -m loadtests.serving_bench.peers.edge --model resnet20-preact:VERSION
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtests.command_line import positive, progress_bar
from loadtests.json_file import write_json
from loadtests.machine import machine
from loadtests.ratios import as_dict, median_over

BYTES = 3000
LIVES: list[asyncio.Future[None]] = []  # of applications, to the end of this process
REQUESTS = 2000
SCOPE = {
    "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/classify",
    "raw_path": b"/classify", "query_string": b"", "root_path": "",
    "server": ("127.0.0.1", 3000),
    "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"image/jpeg"), (b"content-length", str(BYTES).encode())],
}  # fmt: skip


def main() -> int:
    top = argparse.ArgumentParser(prog="python -m loadtests.serving_bench.peers.edge", description=__doc__)
    top.add_argument("--model", required=True, help="a tag of BentoML's model store, of 10 classes")
    top.add_argument("--users", type=positive(int), default=4, help="connections at once (default: 4)")
    top.add_argument("--rounds", type=positive(int), default=40)
    top.add_argument("--out", type=Path, default=Path("build/bench/edge.json"))
    options = top.parse_args()
    with tempfile.TemporaryDirectory() as folder:  # of metrics, as BentoML would set it
        os.environ |= {
            "PROMETHEUS_MULTIPROC_DIR": folder,
            "SERVING_MODELS": options.model,
            "SERVING_INTRA_OP_THREADS": "1",
        }
        turns = uvloop.run(measure(options.rounds, options.users))
    result = summary(turns, options.users)
    write_json(options.out, result)
    print(json.dumps(result, indent=2))
    return 0


async def measure(rounds: int, users: int) -> dict[str, list[float]]:
    """Microseconds a request, round by round."""
    from serving.service import Preflight, opened  # noqa: PLC0415  once the environment says what to open

    service: Any = Preflight  # what the decorator makes of the class
    ours = service.to_asgi()
    await start(ours)
    assert opened.classifier is not None
    (served,) = opened.classifier.served.values()
    pixels, logits = np.zeros((1, 32, 32, 3), np.uint8), np.tile(np.arange(10, dtype=np.float32), (users, 1))
    nothing: Any = opened.classifier
    nothing.decode = lambda *_: pixels
    runner: Any = served.runner
    runner.infer = lambda images: logits[: len(images)]
    answer = await ask(ours)
    lanes = {"ours": ours, "starlette": echo(answer), "ours again": ours}
    found: dict[str, list[float]] = {name: [] for name in lanes}
    with progress_bar(rounds + 1, "measuring", "round") as progress:
        for number in range(rounds + 1):
            for place in range(len(lanes)):
                name = list(lanes)[(number + place) % len(lanes)]
                found[name].append(await turn(lanes[name], users))
            progress.update()
    return {name: values[1:] for name, values in found.items()}  # the first warms up


async def start(app: Any) -> None:
    started = asyncio.Event()
    messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    await messages.put({"type": "lifespan.startup"})

    async def send(_: Any) -> None:
        started.set()

    LIVES.append(asyncio.ensure_future(app({"type": "lifespan", "state": {}}, messages.get, send)))
    await started.wait()


def echo(answer: bytes) -> Starlette:
    async def respond(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    return Starlette(routes=[Route("/classify", respond, methods=["POST"])])


async def turn(app: Any, users: int) -> float:
    async def user(port: int) -> None:
        for _ in range(REQUESTS // users):
            await ask(app, port)

    begun = time.process_time()
    await asyncio.gather(*(user(port) for port in range(1, users + 1)))
    return (time.process_time() - begun) / REQUESTS * 1e6


async def ask(app: Any, port: int = 1) -> bytes:
    """The body of its answer."""
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": body(), "more_body": False}])

    async def receive() -> Any:
        message = next(messages, None)
        return message if message is not None else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    await app({**SCOPE, "client": ("127.0.0.1", port), "state": {}}, receive, send)
    assert sent[0]["status"] == 200, sent
    return bytes(sent[1]["body"])


@cache
def body() -> bytes:
    """A JPEG of 32 x 32, followed by nothing in particular."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG")
    return file.getvalue().ljust(BYTES, b"\0")


def summary(turns: dict[str, list[float]], users: int) -> dict[str, Any]:
    ours, bare, again = (np.array(turns[name]) for name in ("ours", "starlette", "ours again"))
    return {
        "measure": "CPU microseconds a request, in one process, without sockets, decoding and inference",
        "medians": {name: float(np.median(values)) for name, values in turns.items()},
        "ours_minus_starlette": as_dict(median_over(ours - bare)),
        "ours_over_ours_again": as_dict(median_over(ours / again)),
        "rounds": len(ours),
        "requests_a_turn": REQUESTS,
        "users": users,
        "machine": machine(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


if __name__ == "__main__":
    sys.exit(main())
