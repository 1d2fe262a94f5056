"""What every route's part of the OpenAPI description is made of."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from serving.call import REQUEST_ID_HEADER
from serving.errors import ErrorAnswer
from serving.parameters import TIMEOUT_HEADER

ERRORS = {
    HTTPStatus.BAD_REQUEST: "a bad deadline",
    HTTPStatus.UNAUTHORIZED: "no API key that is known here, where keys are asked for",
    HTTPStatus.FORBIDDEN: "an API key for something else",
    HTTPStatus.METHOD_NOT_ALLOWED: "this route answers another method",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "too many bytes of headers",
    HTTPStatus.INTERNAL_SERVER_ERROR: "a fault of the service",
    HTTPStatus.SERVICE_UNAVAILABLE: "not ready",
    HTTPStatus.GATEWAY_TIMEOUT: "not answered within the deadline",
}
CLASSIFY_ERRORS = ERRORS | {
    HTTPStatus.BAD_REQUEST: "no readable image, malformed multipart, a bad or unknown parameter or deadline",
    HTTPStatus.NOT_FOUND: "the variant is not served here",
    HTTPStatus.REQUEST_TIMEOUT: "the body came too slowly",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too many bytes or too many pixels",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the content type is not accepted, or the body is compressed",
    HTTPStatus.TOO_MANY_REQUESTS: "overloaded; retry after the seconds in Retry-After",
}


def form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: schema}}


def parameter(name: str, schema: dict[str, Any], description: str, place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}


def header_parameter(name: bytes, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return parameter(name.decode().title(), schema, description, "header")


def timeout_parameter(longest_ms: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": 10**9 - 1}
    return header_parameter(TIMEOUT_HEADER, schema, f"answer 504 after this time; at most {longest_ms}")


def id_parameter() -> dict[str, Any]:
    return header_parameter(REQUEST_ID_HEADER, {"type": "string"}, "comes back with the answer, and is in the log")


def error_responses(reasons: dict[HTTPStatus, str], model: str = ErrorAnswer.__name__) -> dict[str, Any]:
    return {str(int(status)): response(reason, model) for status, reason in sorted(reasons.items())}


def response(description: str, model: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
