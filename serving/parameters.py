"""What a request asks for: by the query which variant and how many classes, by a header how soon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import QueryParams

from serving.body import PARAMETERS
from serving.call import Call
from serving.classifier import Classifier, Served
from serving.errors import RequestError
from serving.routing import client_of

TOP_K = 5
TIMEOUT_HEADER = b"x-request-timeout-ms"


@dataclass(frozen=True, slots=True)
class Asked:
    """`routed`: the request named no variant, so `served` is the routing's choice; `index`: of a class."""

    served: Served
    routed: bool
    top_k: int
    index: int | None


def read_parameters(call: Call, classifier: Classifier, known: tuple[str, ...] = PARAMETERS) -> Asked:
    query = call.scope["query_string"]
    found = QueryParams(query) if query else {}
    if found and (unknown := sorted(set(found) - set(known))):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "unknown_parameter",
            f"unknown query parameters {unknown}",
            found=", ".join(unknown),
            accepted=list(known),
        )
    variant = found.get("variant")
    served = classifier.choose(variant, client_of(call.headers))
    classes = len(served.manifest.labels)
    top_k = whole_number(found, "top_k", 1, classes)
    index = whole_number(found, "class", 0, classes - 1)
    return Asked(served, variant is None, min(TOP_K, classes) if top_k is None else top_k, index)


def whole_number(parameters: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """None where it is not given."""
    text = parameters.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and least <= int(text) <= most):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            f"bad_{name}",
            f"{name} must be a whole number from {least} to {most}",
            found=text,
            accepted=[f"{least} to {most}"],
        )
    return int(text)


def patience(call: Call, longest_ms: int) -> int:
    """Milliseconds that a client has patience for, `X-Request-Timeout-Ms`, up to what the service has."""
    given = call.headers.get(TIMEOUT_HEADER)
    if given is None:
        return longest_ms
    text = given.decode("latin-1").strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "bad_timeout",
            f"{TIMEOUT_HEADER.decode()} is a whole number of milliseconds",
            found=text[:40],
            accepted=[f"1 to {longest_ms}"],
        )
    return min(int(text), longest_ms)
