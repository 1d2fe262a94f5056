"""Our routes, answered before BentoML's own routing.

BentoML validates and re-describes every request on the way to a method and answers some client errors with a 500 or
with a list; measured, that costs two thirds of the throughput of a small network. As ASGI middleware we sit behind its
metrics and timeout and in front of all that. `/readyz`, `/livez` and `/metrics` stay BentoML's.
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
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.classifier import Classifier, Served
from serving.config import Settings
from serving.errors import RequestError
from serving.openapi import document

logger = logging.getLogger("bentoml.serve")

INDEX = Path(__file__).with_name("index.html")
PARAMETERS = ("variant", "top_k")
TOP_K = 5
RECEIVING_PER_IN_FLIGHT = 4
MULTIPART_MARGIN = 64 << 10  # boundaries and part headers around the image


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
        if self.opened.in_flight >= settings.max_in_flight:
            raise RequestError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "overloaded",
                f"{self.opened.in_flight} requests are in flight, as many as are held",
                headers={"retry-after": "1"},
            )
        encoded = await self.receive(request, settings)
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
        if self.opened.receiving >= RECEIVING_PER_IN_FLIGHT * settings.max_in_flight:
            raise RequestError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "overloaded",
                f"{self.opened.receiving} bodies are being received, as many as are held",
                headers={"retry-after": "1"},
            )
        self.opened.receiving += 1
        try:
            return await read_image(request, settings)
        finally:
            self.opened.receiving -= 1

    def classifier(self) -> Classifier:
        if self.opened.classifier is None:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the models are not open; see /readyz")
        return self.opened.classifier


def answer(body: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")


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


async def read_image(request: Request, settings: Settings) -> bytes:
    """The encoded image: the raw body, or the file `image` of a multipart form."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limit = settings.max_image_bytes
    if content_type == "multipart/form-data":
        encoded = await read_multipart(limited(request, limit, MULTIPART_MARGIN))
    elif content_type.startswith("image/") or content_type in {"", "application/octet-stream"}:
        encoded = await limited(request, limit).body()
    else:
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_type",
            "send the encoded image as the raw body, or as the file `image` of a multipart form",
            found=content_type,
            accepted=["image/*", "application/octet-stream", "multipart/form-data"],
        )
    if not encoded:
        raise RequestError(HTTPStatus.BAD_REQUEST, "empty_body", "the image has no bytes", found="0 bytes")
    if len(encoded) > limit:
        raise too_many_bytes(f"{len(encoded)} bytes", limit)
    return encoded


async def read_multipart(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            image = form.get("image")
            surplus = sorted(set(form) - {"image"})
            if isinstance(image, UploadFile) and surplus:
                raise RequestError(
                    HTTPStatus.BAD_REQUEST,
                    "unknown_field",
                    f"unknown form fields {surplus}; {' and '.join(PARAMETERS)} are query parameters",
                    found=", ".join(surplus),
                    accepted=["image"],
                )
            if isinstance(image, UploadFile):
                return await image.read()
            fields = ", ".join(form) or "no field"
    except (HTTPException, MultiPartException, ValueError) as error:  # ValueError: a charset that names no encoding
        detail = error.detail if isinstance(error, HTTPException) else str(error) or type(error).__name__
        raise RequestError(
            HTTPStatus.BAD_REQUEST, "malformed_multipart", f"the multipart body is malformed: {detail}"
        ) from None
    raise RequestError(
        HTTPStatus.BAD_REQUEST,
        "no_image_field",
        "the multipart form needs a file named `image`",
        found=fields,
        accepted=["image"],
    )


def limited(request: Request, limit: int, margin: int = 0) -> Request:
    """The same request, refused as soon as its body is known to be longer than `limit` bytes and the margin."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit + margin:
        raise too_many_bytes(f"content-length {declared}", limit)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit + margin:
            raise too_many_bytes(f"more than {limit} bytes", limit)
        return message

    return Request(request.scope, receive)


def too_many_bytes(found: str, limit: int) -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too_many_bytes",
        f"the image may have up to {limit} bytes",
        found=found,
        accepted=[f"up to {limit} bytes"],
    )
