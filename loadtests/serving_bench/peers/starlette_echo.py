"""The roof: the bare framework receives the body and answers as many bytes as a classification has."""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PREDICTION = {"label": "automobile", "index": 1, "probability": 0.123456}
ANSWER = json.dumps({"variant": "resnet20-preact", "predictions": [PREDICTION] * 5}).encode()


async def answer(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/json")


app = Starlette(routes=[Route("/classify", answer, methods=["POST"]), Route("/readyz", answer)])
