"""What a service says of the variants that it serves."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from loadtests.api_key import KEY_VARIABLE, authorization
from loadtests.results import Target

Served = dict[str, Any]


class TargetError(ValueError):
    """There is nothing to measure: no service, or not this variant."""


def read_target(text: str, host: str) -> Target:
    """`VARIANT` is asked at `host`, `VARIANT@URL` elsewhere. Raises TargetError."""
    variant, at, url = text.partition("@")
    url = url if at else host
    if not variant or not url.startswith(("http://", "https://")):
        raise TargetError(f"{text} at {url}: expected VARIANT or VARIANT@http://NAME:PORT")
    return Target(url.rstrip("/"), variant)


def served(target: Target) -> Served:
    """The entry of `/variants`. Raises TargetError, KeyVariableError."""
    url = f"{target.host}/variants"
    request = urllib.request.Request(url)  # noqa: S310  the user's own service
    for name, value in authorization().items():
        request.add_unredirected_header(name, value)  # whoever is redirected to gets no key
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            found = {variant["variant"]: variant for variant in json.load(response)["variants"]}
    except urllib.error.HTTPError as error:
        raise TargetError(refusal(url, error)) from error
    except (urllib.error.URLError, http.client.HTTPException, ValueError, KeyError, TypeError, TimeoutError) as error:
        raise TargetError(f"{url} does not answer ({error}); start the service: make serve") from error
    if target.variant not in found:
        raise TargetError(f"{target.host} serves {', '.join(found)}, not {target.variant}")
    entry: Served = found[target.variant]
    return entry


def as_served(target: Target, entry: Served) -> Target:
    """With the version that the entry tells: who measures it shall not mistake another's answers for its."""
    return replace(target, version=entry.get("version", ""))


def refusal(url: str, answer: urllib.error.HTTPError) -> str:
    """Status and message of an answer that is none of 200, and what would let in who was not."""
    with answer:
        said = f"{url} answers {answer.code} {message_in(answer)}".rstrip()
    if answer.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return f"{said}; {KEY_VARIABLE} needs a key with both scopes, predict and observe"
    return f"{said}; expected this project's service there: see its log, or ask another by --host"


def message_in(answer: urllib.error.HTTPError) -> str:
    """The service's own words, or HTTP's where another answered."""
    try:
        return str(json.load(answer)["message"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return answer.reason
