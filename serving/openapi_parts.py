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
OPEN_ERRORS = {  # of routes that ask for no key and have no deadline
    status: ERRORS[status]
    for status in (
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
}
CLASSIFY_ERRORS = ERRORS | {
    HTTPStatus.BAD_REQUEST: "no readable image, malformed multipart, a bad or unknown parameter or deadline",
    HTTPStatus.NOT_FOUND: "the variant is not served here",
    HTTPStatus.REQUEST_TIMEOUT: "the body came too slowly",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too many bytes or too many pixels",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the content type is not accepted, or the body is compressed",
    HTTPStatus.TOO_MANY_REQUESTS: "overloaded; retry after the seconds in Retry-After",
}

HEADERS = {  # of answers with this status, beside X-Request-Id
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "string", "`Bearer`"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("Allow", "string", "the methods that it answers"),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After", "integer", "seconds"),
}
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
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
    found = {}
    for status, reason in sorted(reasons.items()):
        found[str(int(status))] = response(reason, model)
        if status in HEADERS:
            name, kind, told = HEADERS[status]
            found[str(int(status))]["headers"] |= header(name, kind, told)
    return found


def response(description: str, *models: str) -> dict[str, Any]:
    """JSON of the model, or of one of them."""
    schemas = [{"$ref": f"#/components/schemas/{model}"} for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return of_type("application/json", schema, description)


def of_type(content_type: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": header("X-Request-Id", "string", "the request's, or one made for it"),
        "content": {content_type: {"schema": schema}},
    }


def header(name: str, kind: str, description: str) -> dict[str, Any]:
    return {name: {"schema": {"type": kind}, "description": description}}


def locked(operations: dict[str, Any]) -> dict[str, Any]:
    """The same, with the keys that are asked for where a 401 says so; either form will do."""
    for operation in (each for item in operations.values() for each in item.values() if isinstance(each, dict)):
        if "401" in operation["responses"]:
            operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
    return operations
