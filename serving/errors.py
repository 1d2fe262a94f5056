"""Every answer that is not a classification.

    request --> path --> key --> method --> parameters --> admitted --> body --> decoded --> inferred --> 200
                 |404     |401    |405       |400 top_k,    |429         |400 empty, malformed
                          |403               | deadline,                 |408 too slow
                                             | unknown                   |413 too many bytes
                                             |404 variant                |415 content type
                                                                         |429 full meanwhile, no room
                                                                                  |400 no image
                                                                                  |413 too many pixels

Requests of the Open Inference Protocol (`/v2`) go the same way, their key before their path; their errors are one
sentence in `error`, nothing else.
A 431 is too many headers, a 503 a worker that is not ready. A 500 is a bug of ours and is logged with its traceback; no
request is meant to cause one. A 504 is a deadline that passed, wherever the request was.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field


def sendable(text: str) -> str:
    """What a client sent may hold lone surrogates, which no encoding can send back."""
    return text.encode("utf-8", "replace").decode()


class ErrorAnswer(BaseModel):
    """The body of our every 4xx and 5xx: what was wrong, what was found, and what is accepted."""

    error: Annotated[str, Field(description="its name, for programs; docs/troubleshooting.md has them all")]
    message: Annotated[str, Field(description="for people")]
    found: Annotated[str, Field(description="of what was sent; empty where that would tell nothing")]
    accepted: Annotated[list[str], Field(description="in its place; empty where nothing would be")]


class RequestError(Exception):
    """Ends a request with an HTTP status and an `ErrorAnswer`."""

    def __init__(
        self,
        status: HTTPStatus,
        error: str,
        message: str,
        *,
        found: str = "",
        accepted: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.answer = ErrorAnswer(
            error=error, message=sendable(message), found=sendable(found), accepted=accepted or []
        )
        self.headers = headers or {}


def let_go(error: Exception) -> None:
    """Of one that has been answered: of what was going on as it was raised.

    The work that failed keeps it, it the frames that it passed, and those the work, with the body of the request: a
    circle, which would be memory until the collector comes, hundreds of bodies later.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None


def refuse_other_methods(found: str, accepted: str) -> None:
    """Raises RequestError. Whatever answers GET answers HEAD (RFC 9110, 9.3.2), which some probes ask with."""
    methods = ["GET", "HEAD"] if accepted == "GET" else [accepted]
    if found not in methods:
        raise RequestError(
            HTTPStatus.METHOD_NOT_ALLOWED, "wrong_method", f"this route answers {' and '.join(methods)}", found=found,
            accepted=methods, headers={"allow": ", ".join(methods)},
        )  # fmt: skip


def overloaded(found: str, accepted: str) -> RequestError:
    return RequestError(
        HTTPStatus.TOO_MANY_REQUESTS, "overloaded", "more requests are held than can be answered in time", found=found,
        accepted=[accepted], headers={"retry-after": "1"},
    )  # fmt: skip


def too_slow(limit_ms: int) -> RequestError:
    """Its connection is of no further use: what still comes over it belongs to this body."""
    message = f"the body did not arrive within {limit_ms} ms"
    return RequestError(HTTPStatus.REQUEST_TIMEOUT, "slow_body", message, headers={"connection": "close"})


def too_late(message: str) -> RequestError:
    return RequestError(HTTPStatus.GATEWAY_TIMEOUT, "deadline_exceeded", message)
