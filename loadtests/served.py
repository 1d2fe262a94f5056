"""What a service says of the variants that it serves."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

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
    """The entry of `/variants`. Raises TargetError."""
    url = f"{target.host}/variants"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  the user's own service
            found = {variant["variant"]: variant for variant in json.load(response)["variants"]}
    except (urllib.error.URLError, http.client.HTTPException, ValueError, KeyError, TypeError, TimeoutError) as error:
        raise TargetError(f"{url} does not answer ({error}); start the service: make serve") from error
    if target.variant not in found:
        raise TargetError(f"{target.host} serves {', '.join(found)}, not {target.variant}")
    entry: Served = found[target.variant]
    return entry
