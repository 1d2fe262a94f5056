"""Our routes, answered before BentoML's own routing.

BentoML validates and re-describes every request on the way to a method and answers some client errors with a 500 or
with a list; docs/decisions.md says more. As ASGI middleware we sit behind its metrics and timeout and in front of all
that. `/readyz`, `/livez` and `/metrics` stay BentoML's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.body import PARAMETERS, read_image
from serving.classifier import Classifier, Served
from serving.config import Settings
from serving.errors import RequestError
from serving.openapi import document

logger = logging.getLogger("bentoml.serve")

INDEX = Path(__file__).with_name("index.html")
TOP_K = 5
RECEIVING_PER_IN_FLIGHT = 4


@dataclass
class Opened:
    """What the worker has opened: empty until it is ready, and again once it closes."""

    classifier: Classifier | None = None
    pool: ThreadPoolExecutor | None = None
    in_flight: int = field(default=0, init=False)
    receiving: int = field(default=0, init=False)


class HttpApi:
    """ASGI middleware for `/`, `/classify`, `/variants` and `/docs.json`."""

    def __init__(self, app: ASGIApp, opened: Opened) -> None:
        self.app = app
        self.opened = opened
        self.routes: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/": ("GET", self.index),
            "/classify": ("POST", self.classify),
            "/variants": ("GET", self.variants),
            "/docs.json": ("GET", self.openapi),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        method, handler = route
        try:
            if scope["method"] != method:
                raise wrong_method(scope["method"], method)
            response = await handler(Request(scope, receive))
        except RequestError as error:
            response = answer(error.answer, error.status)
            response.headers.update(error.headers)
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            fault = RequestError(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "a fault of the service; its log has the details"
            ).answer
            response = answer(fault, HTTPStatus.INTERNAL_SERVER_ERROR)
        await response(scope, receive, send)

    async def index(self, _: Request) -> Response:
        return Response(INDEX.read_bytes(), media_type="text/html")

    async def variants(self, _: Request) -> Response:
        return answer(self.classifier().variants())

    async def openapi(self, _: Request) -> Response:
        return Response(document(self.classifier()), media_type="application/json")

    async def classify(self, request: Request) -> Response:
        classifier = self.classifier()
        served, top_k = read_parameters(request, classifier)
        settings = classifier.settings
        admit(self.opened.in_flight, settings.max_in_flight)  # no use in receiving what would be refused
        encoded = await self.receive(request, settings)
        admit(self.opened.in_flight, settings.max_in_flight)  # others may have come first meanwhile
        self.opened.in_flight += 1
        try:
            classification = await asyncio.get_running_loop().run_in_executor(
                self.opened.pool, classifier.classify, encoded, served, top_k, time.perf_counter()
            )
        finally:
            self.opened.in_flight -= 1
        return answer(classification)

    async def receive(self, request: Request, settings: Settings) -> bytes:
        """Bodies on their way are counted apart: slow clients must not keep quick ones out."""
        admit(self.opened.receiving, RECEIVING_PER_IN_FLIGHT * settings.max_in_flight)
        self.opened.receiving += 1
        try:
            return await read_image(request, settings.max_image_bytes)
        finally:
            self.opened.receiving -= 1

    def classifier(self) -> Classifier:
        if self.opened.classifier is None:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the models are not open; the log says why")
        return self.opened.classifier


def answer(body: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")


def admit(held: int, most: int) -> None:
    if held >= most:
        raise RequestError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "overloaded",
            f"{held} requests are held, as many as may be",
            found=str(held),
            accepted=[f"up to {most} at once"],
            headers={"retry-after": "1"},
        )


def wrong_method(found: str, accepted: str) -> RequestError:
    return RequestError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "wrong_method",
        f"this route answers {accepted}",
        found=found,
        accepted=[accepted],
        headers={"allow": accepted},
    )


def read_parameters(request: Request, classifier: Classifier) -> tuple[Served, int]:
    unknown = sorted(set(request.query_params) - set(PARAMETERS))
    if unknown:
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "unknown_parameter",
            f"unknown query parameters {unknown}",
            found=", ".join(unknown),
            accepted=list(PARAMETERS),
        )
    served = classifier.choose(request.query_params.get("variant"))
    classes = len(served.manifest.labels)
    top_k = request.query_params.get("top_k", str(min(TOP_K, classes)))
    if not (top_k.isascii() and top_k.isdecimal() and len(top_k) < 6 and 1 <= int(top_k) <= classes):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "bad_top_k",
            f"top_k must be a whole number from 1 to {classes}",
            found=top_k,
            accepted=[f"1 to {classes}"],
        )
    return served, int(top_k)
