"""Every answer that is not a classification.

    request --> route --> body --> parameters --> admitted --> decoded --> inferred --> 200
                 |405      |400 empty, malformed  |429          |400 no image
                           |413 too many bytes                  |413 too many pixels
                           |415 content type
                                    |400 top_k, unknown parameter
                                    |404 unknown variant

A 500 is a bug of ours and is logged with its traceback; no request is meant to cause one.
"""

from __future__ import annotations

from http import HTTPStatus

from pydantic import BaseModel


class ErrorAnswer(BaseModel):
    """The body of every 4xx and 5xx: what was wrong, what was found, and what is accepted."""

    error: str
    message: str
    found: str | None = None
    accepted: list[str] | None = None


class RequestError(Exception):
    """Ends a request with an HTTP status and an `ErrorAnswer`."""

    def __init__(
        self,
        status: HTTPStatus,
        error: str,
        message: str,
        *,
        found: str | None = None,
        accepted: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.answer = ErrorAnswer(error=error, message=message, found=found, accepted=accepted)
        self.headers = headers or {}
