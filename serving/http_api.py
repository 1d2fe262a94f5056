"""Our routes, answered in front of BentoML's application.

BentoML validates and re-describes every request on the way to a method, answers some client errors with a 500 or with
a list, keeps a timer for every request and a metric for every path that anybody makes up; docs/decisions.md says more.
What it would do for these routes is done here: limits, deadlines, metrics, and readiness while the worker drains. No
request goes on to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from itertools import chain

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.pixels import is_small_jpeg
from serving.answers import BatchAnswer, BatchItem, Classification
from serving.body import PARAMETERS, read_image, read_images, refuse_empty_or_long
from serving.call import REQUEST_ID_HEADER, Call, Vain, Watch, current
from serving.config import AccessLog
from serving.cycle import send_whole
from serving.errors import RequestError, let_go, refuse_other_methods, sendable, too_late, too_slow
from serving.inference_protocol import InferenceProtocol, as_protocol
from serving.keys import Scope as KeyScope
from serving.keys import presented_in
from serving.logs import log_access
from serving.metrics import exposition, metrics
from serving.openapi import document
from serving.opened import Opened
from serving.parameters import Asked, patience, read_parameters
from serving.routing import client_of
from serving.static_files import INDEX, read_page
from serving.work import Moments

logger = logging.getLogger("bentoml.serve")

PAGE, CLASSIFY = "/ui", "/classify"
METRICS = "/metrics"
READY = "/readyz"
PROBES = ("/livez", "/healthz", READY)
REFUSING_S = 1.0  # from the last 429 on: so long a look at the head alone is worth what it costs who is let in
CLIENT_CLOSED_REQUEST = 499  # nginx's word for it: there is nobody to tell
Handler = Callable[[Call], Awaitable[Response]]


class HttpApi:
    """The ASGI application; `app` is BentoML's."""

    def __init__(self, app: ASGIApp, opened: Opened) -> None:
        self.app = app
        self.refusing_until = 0.0  # by `perf_counter`
        self.opened = opened
        self.protocol = InferenceProtocol(opened)
        self.files = read_page()
        self.routes: dict[str, tuple[str, Handler, KeyScope | None]] = {
            "/": ("GET", self.page, None),
            PAGE: ("GET", self.page, None),
            **{f"{PAGE}/{name}": ("GET", file, None) for name, file in self.files.items()},
            CLASSIFY: ("POST", self.classify, KeyScope.PREDICT),
            "/classify/batch": ("POST", self.classify_batch, KeyScope.PREDICT),
            "/explain": ("POST", self.explain, KeyScope.PREDICT),
            METRICS: ("GET", self.metrics, KeyScope.OBSERVE),
            "/variants": ("GET", self.variants, KeyScope.OBSERVE),
            "/docs.json": ("GET", self.openapi, KeyScope.OBSERVE),
        }

    @property
    def paths(self) -> list[str]:
        """Without what the page is made of."""
        return [*(path for path in self.routes if not path.startswith(f"{PAGE}/")), "/v2", *PROBES]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        call = Call(scope, receive, dict(scope["headers"]))
        current.set(call)
        path = call.path.rstrip("/") or "/"
        if path in PROBES:
            await send_whole(self.completed(self.probe(call, path), call), scope, receive, send)
            return
        try:
            response = await self.respond(call, path)
        except ClientDisconnect:
            self.note(call, path, CLIENT_CLOSED_REQUEST, begun)
            return
        is_sent = await send_whole(self.completed(response, call), scope, receive, send)
        self.note(call, path, response.status_code if is_sent else CLIENT_CLOSED_REQUEST, begun)

    def note(self, call: Call, path: str, status: int, begun: float) -> None:
        if path == METRICS and status == HTTPStatus.OK:
            return
        self.opened.answered += status != CLIENT_CLOSED_REQUEST
        metrics().replied(self.name(path), status)
        if self.opened.settings.access_log is AccessLog.ON:
            log_access(call, status, time.perf_counter() - begun)

    def completed(self, response: Response, call: Call) -> Response:
        response.raw_headers.append((REQUEST_ID_HEADER, call.request_id.encode()))
        if self.opened.draining:
            response.raw_headers.append((b"connection", b"close"))
        return response

    def refusal(self, scope: Scope) -> Response | None:
        """429 by the head of a request, before anything is begun for it: what makes overload cheap.

        As `respond` would say; None for everybody else, and as long as nobody was refused lately.
        """
        now = time.perf_counter()
        if now > self.refusing_until or scope["path"] != CLASSIFY or scope["method"] != "POST":
            return None
        settings = self.opened.settings
        if settings.access_log is AccessLog.ON:
            return None
        call = Call(scope, nobody, dict(scope["headers"]))
        try:
            self.admit(call, KeyScope.PREDICT)
            classifier = self.opened.ready()
            asked = read_parameters(call, classifier)
            if asked.routed and classifier.routing.sole is None and client_of(call.headers) is None:
                return None  # the lot would be drawn twice, and fall to whoever has room in neither
            self.opened.admit(asked.served.lane, now + patience(call, settings.max_timeout_ms) / 1e3)
        except RequestError as error:
            if error.status != HTTPStatus.TOO_MANY_REQUESTS:
                return None  # with the body, if need be
            metrics().replied(CLASSIFY, error.status)
            self.opened.answered += 1
            return self.completed(self.refused(error, as_ours), call)
        return None

    def refused(self, error: RequestError, as_response: Callable[[RequestError], Response]) -> Response:
        metrics().refuse(error.answer.error)
        if error.status == HTTPStatus.TOO_MANY_REQUESTS:
            self.refusing_until = time.perf_counter() + REFUSING_S
        return as_response(error)

    def name(self, path: str) -> str:
        """Of a path, in metrics: there is no end of paths that people make up."""
        if path.startswith(f"{PAGE}/"):
            return PAGE
        return path if path in self.routes else "/v2" if is_v2(path) else "other"

    async def respond(self, call: Call, path: str) -> Response:
        """Whatever happens, as a response."""
        as_response = as_protocol if is_v2(path) else as_ours
        try:
            if is_v2(path):
                if path.startswith("/v2/health"):
                    self.admit(call, None)
                    return await self.protocol(call)
                self.admit(call, KeyScope.PREDICT)
                return await self.in_time(self.protocol, call)
            if path not in self.routes:
                raise RequestError(
                    HTTPStatus.NOT_FOUND, "unknown_path", "nothing is here", found=path[:80], accepted=self.paths
                )
            method, handler, key = self.routes[path]
            self.admit(call, key)
            refuse_other_methods(call.method, method)
            return await self.in_time(handler, call)
        except RequestError as error:
            let_go(error)
            return self.refused(error, as_response)
        except ClientDisconnect:
            raise
        except Exception as error:
            logger.exception("%s %r failed, request %s", call.method, path[:200], call.request_id)
            let_go(error)
            message = "a fault of the service; its log has the details"
            return as_response(RequestError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message))

    def admit(self, call: Call, needed: KeyScope | None) -> None:
        """Raises RequestError where the headers are too long, or the path needs a key that was not sent."""
        most = self.opened.settings.max_header_bytes
        if (found := sum(map(len, chain.from_iterable(call.scope["headers"])))) > most:
            raise RequestError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too_many_header_bytes",
                f"headers of up to {most} bytes are read",
                found=f"{found} bytes",
                accepted=[f"up to {most} bytes"],
            )
        if needed is not None and self.opened.keys is not None:
            self.opened.keys.admit(presented_in(call.headers), needed)

    async def in_time(self, handler: Handler, call: Call) -> Response:
        """The handler's answer, or RequestError: 408 for a body that is too slow, 504 once the deadline has passed.

        Raises ClientDisconnect where nobody waits any more.
        """
        settings = self.opened.settings
        patience_ms = patience(call, settings.max_timeout_ms)
        call.deadline = time.perf_counter() + patience_ms / 1e3
        call.room = self.opened.room
        watch = Watch(call, settings.max_receive_ms / 1e3)
        try:
            return await handler(call)
        except asyncio.CancelledError:
            if not watch.ended():
                raise
        finally:
            watch.stop()
            call.give_back()
        if watch.found is Vain.GONE:
            raise ClientDisconnect
        if watch.found is Vain.SLOW_BODY:
            raise too_slow(settings.max_receive_ms)
        raise too_late(f"not answered within {patience_ms} ms; what had not begun was dropped")

    def probe(self, call: Call, path: str) -> Response:
        """Whether the worker lives, or is ready. Not counted; BentoML would keep 2 KB of each until a deadline."""
        try:
            self.admit(call, None)
            refuse_other_methods(call.method, "GET")
            if path == READY and not self.opened.is_ready:
                raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "no models are open, or it leaves")
            if path != READY and not self.opened.is_live:
                raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "device_failed", "only a restart helps")
        except RequestError as error:
            return as_ours(error)
        return Response("\n", media_type="text/plain")

    async def page(self, call: Call) -> Response:
        """Its address ends in a slash: what it refers to is found below it, also behind a proxy's prefix."""
        if call.path.startswith(PAGE) and call.path.endswith("/"):
            return await self.files[INDEX](call)
        return RedirectResponse("ui/")

    async def metrics(self, call: Call) -> Response:
        self.opened.publish()
        call.received = True  # no body keeps it waiting
        return Response(await asyncio.to_thread(exposition), media_type=CONTENT_TYPE_LATEST)

    async def variants(self, _: Call) -> Response:
        return as_json(self.opened.ready().variants().model_dump_json())

    async def openapi(self, _: Call) -> Response:
        return as_json(document(self.opened.ready(), self.opened.keys is not None))

    async def classify(self, call: Call) -> Response:
        asked, settings = read_parameters(call, self.opened.ready()), self.opened.settings
        begun = time.perf_counter()
        encoded = await self.opened.receive(call, asked.served.lane, read_image(call, settings.max_image_bytes))
        here = self.opened.is_alone(call) and is_small_jpeg(encoded, settings.max_image_pixels)
        moments = Moments(begun, time.perf_counter())
        classification = await self.classified(call, asked, encoded, moments, here)
        metrics().spent(asked.served.manifest.variant, "receive", moments.receive_s)
        return as_json(to_json(classification))

    async def explain(self, call: Call) -> Response:
        classifier = self.opened.ready()
        asked = read_parameters(call, classifier, (*PARAMETERS, "class"))
        asked.served.explainer.refuse_absence()
        begun = time.perf_counter()
        encoded = await self.opened.receive(
            call, asked.served.explainer.lane, read_image(call, self.opened.settings.max_image_bytes)
        )
        moments = Moments(begun, time.perf_counter())
        work = classifier.explanation(encoded, asked.served, asked.index, asked.top_k, moments, call.deadline)
        explanation = await self.opened.run(asked.served.explainer.lane, work)
        variant = asked.served.manifest.variant
        metrics().spent(variant, "receive", moments.receive_s)
        metrics().answered(variant, 1, moments.stages_s(time.perf_counter(), "explain"))
        return as_json(to_json(explanation))

    async def classify_batch(self, call: Call) -> Response:
        """Every image on its own: who cannot be classified says so in its place."""
        asked, settings = read_parameters(call, self.opened.ready()), self.opened.settings
        begun = time.perf_counter()
        images = await self.opened.receive(
            call, asked.served.lane, read_images(call, settings.max_images, settings.max_batch_bytes)
        )
        received_s = time.perf_counter() - begun
        width = min(asked.served.lane.width, settings.max_in_flight)
        together = asyncio.Semaphore(width)  # the rest wait here, and keep nobody else waiting

        async def item(name: str, encoded: bytes) -> BatchItem:
            try:
                refuse_empty_or_long(encoded, settings.max_image_bytes)
                async with together:
                    now = time.perf_counter()  # what it waited for its own neighbours is no queue
                    classification = await self.classified(call, asked, encoded, Moments(now, now))
            except RequestError as error:
                let_go(error)
                metrics().refuse(error.answer.error)
                return {"name": sendable(name), "status": error.status, "classification": None, "error": error.answer}
            return {"name": sendable(name), "status": HTTPStatus.OK, "classification": classification, "error": None}

        async with asyncio.TaskGroup() as group:
            items = [group.create_task(item(name, encoded)) for name, encoded in images]
        metrics().spent(asked.served.manifest.variant, "receive", received_s)
        results: BatchAnswer = {"results": [task.result() for task in items]}
        return as_json(to_json(results))

    async def classified(
        self, call: Call, asked: Asked, encoded: bytes, moments: Moments, here: bool = False
    ) -> Classification:
        classifier, served = self.opened.ready(), asked.served
        work = classifier.classification(encoded, served, asked.top_k, moments, call.deadline, small=here)
        classification = await self.opened.run(served.lane, work, here)
        metrics().answered(served.manifest.variant, 1, moments.stages_s(time.perf_counter()))
        if asked.routed and classifier.routing.shadow and work.images is not None:
            self.opened.copy(served, classification["predictions"][0]["index"], work.images)
        return classification


async def nobody() -> Message:
    """Of whom nothing is received."""
    raise ClientDisconnect


def is_v2(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def as_ours(error: RequestError) -> Response:
    return as_json(error.answer.model_dump_json(), error.status, error.headers)


def as_json(content: str | bytes, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, status, headers, "application/json")
