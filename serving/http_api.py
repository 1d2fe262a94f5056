"""Our routes, answered before BentoML's own routing.

BentoML validates and re-describes every request on the way to a method and answers some client errors with a 500 or
with a list; docs/decisions.md says more. As ASGI middleware we sit behind its metrics and timeout and in front of all
that. `/readyz`, `/livez` and `/metrics` stay BentoML's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from pathlib import Path

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.body import PARAMETERS, read_image
from serving.classifier import Classifier, Served
from serving.errors import RequestError, wrong_method
from serving.inference_protocol import InferenceProtocol, as_protocol
from serving.keys import Scope as KeyScope
from serving.keys import presented_in
from serving.metrics import metrics
from serving.openapi import document
from serving.opened import Opened

logger = logging.getLogger("bentoml.serve")

INDEX = Path(__file__).with_name("index.html")
TOP_K = 5
TIMEOUT_HEADER = b"x-request-timeout-ms"
Handler = Callable[[Request], Awaitable[Response]]


class HttpApi:
    """ASGI middleware for `/`, `/classify`, `/variants`, `/docs.json` and all of `/v2`."""

    def __init__(self, app: ASGIApp, opened: Opened) -> None:
        self.app = app
        self.opened = opened
        self.protocol = InferenceProtocol(opened)
        self.routes: dict[str, tuple[str, Handler]] = {
            "/": ("GET", self.index),
            "/classify": ("POST", self.classify),
            "/variants": ("GET", self.variants),
            "/docs.json": ("GET", self.openapi),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        handler, refused = self.handler(scope)
        response = None
        try:
            self.admit(scope)
            if handler is not None:
                response = await in_time(handler, Request(scope, receive), self.opened.longest_s)
        except RequestError as error:
            metrics().refused.labels(error.answer.error).inc()
            response = refused(error)
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            response = refused(
                RequestError(
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    "internal_error",
                    "a fault of the service; its log has the details",
                )
            )
        if response is None:
            await self.app(scope, receive, send)  # BentoML's own paths
        else:
            await response(scope, receive, send)

    def admit(self, scope: Scope) -> None:
        """Raises RequestError where a path needs a key that was not sent."""
        needed = scope_of(scope["path"])
        if needed is not None and self.opened.keys is not None:
            self.opened.keys.admit(presented_in(scope["headers"]), needed)

    def handler(self, scope: Scope) -> tuple[Handler | None, Callable[[RequestError], Response]]:
        """What answers a path, and how its errors look; None for BentoML's own paths."""
        path = scope["path"]
        if path == "/v2" or path.startswith("/v2/"):
            return self.protocol, as_protocol
        method, handler = self.routes.get(path, ("", None))
        return (handler if scope["method"] == method or handler is None else refuse(method)), as_ours

    async def index(self, _: Request) -> Response:
        return Response(INDEX.read_bytes(), media_type="text/html")

    async def variants(self, _: Request) -> Response:
        return answer(self.opened.ready().variants())

    async def openapi(self, _: Request) -> Response:
        return Response(document(self.opened.ready()), media_type="application/json")

    async def classify(self, request: Request) -> Response:
        classifier = self.opened.ready()
        served, top_k = read_parameters(request, classifier)
        begun = time.perf_counter()
        encoded = await self.opened.receive(read_image(request, classifier.settings.max_image_bytes))
        arrived = time.perf_counter()
        classification = await self.opened.run(request.receive, classifier.classify, encoded, served, top_k, arrived)
        response = answer(classification)
        stages_s = {stage: duration / 1e3 for stage, duration in classification.timings_ms}
        stages_s["answer"] = max(time.perf_counter() - arrived - sum(stages_s.values()), 0.0)
        metrics().answered(classification.variant, 1, stages_s | {"receive": arrived - begun})
        return response


def scope_of(path: str) -> KeyScope | None:
    """Which key a path needs, where keys are asked for; None for pages and health checks."""
    path = path.rstrip("/")
    if path == "/classify" or ((path == "/v2" or path.startswith("/v2/")) and not path.startswith("/v2/health")):
        return KeyScope.PREDICT
    return KeyScope.OBSERVE if path in {"/variants", "/metrics", "/docs.json"} else None


async def in_time(handler: Handler, request: Request, longest_s: float) -> Response:
    """The handler's answer, or RequestError 504 once the deadline has passed."""
    seconds = deadline_s(request.scope["headers"], longest_s)
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await handler(request)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise too_late(seconds) from None


def deadline_s(headers: Iterable[tuple[bytes, bytes]], longest_s: float) -> float:
    """What a client has patience for, `X-Request-Timeout-Ms`, up to what the service has; counted from here on."""
    for name, value in headers:
        if name != TIMEOUT_HEADER:
            continue
        text = value.decode("latin-1").strip()
        if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text)):
            raise RequestError(
                HTTPStatus.BAD_REQUEST,
                "bad_timeout",
                f"{TIMEOUT_HEADER.decode()} is a whole number of milliseconds",
                found=text[:40],
                accepted=[f"1 to {longest_s * 1e3:.0f}"],
            )
        return min(int(text) / 1e3, longest_s)
    return longest_s


def too_late(seconds: float) -> RequestError:
    return RequestError(
        HTTPStatus.GATEWAY_TIMEOUT,
        "deadline_exceeded",
        f"not answered within {seconds * 1e3:.0f} ms; what had not begun was dropped",
        found=f"{seconds * 1e3:.0f} ms",
    )


def as_ours(error: RequestError) -> Response:
    response = answer(error.answer, error.status)
    response.headers.update(error.headers)
    return response


def refuse(accepted: str) -> Handler:
    async def handler(request: Request) -> Response:
        raise wrong_method(request.method, accepted)

    return handler


def answer(body: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")


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
