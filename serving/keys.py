"""API keys: who may predict, and who may look.

A file has one key a line, `SCOPE SHA256 [NAME]`, and never the key itself: `python -m serving key` makes both. Keys are
256 random bits, so that one fast hash of them is as good as a slow one. The file is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path

from serving.errors import RequestError

LINE = re.compile(r"(?P<scope>\w+)\s+(?P<sha256>[0-9a-f]{64})(?:\s+(?P<name>\S+))?")
CHECKED_EVERY_S = 1.0

logger = logging.getLogger("bentoml.serve")


class Scope(StrEnum):
    """What a key opens."""

    PREDICT = "predict"  # /classify, /classify/batch, /explain, /v2
    OBSERVE = "observe"  # /metrics, /variants, /docs.json


class KeysError(ValueError):
    """A file of keys that cannot be used."""


@dataclass(frozen=True, slots=True)
class Key:
    scope: Scope
    sha256: bytes
    name: str


class Keys:
    """The keys of a file as it is now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = changed_at(path)  # first: what changes meanwhile is read again
        self.keys = read_keys(path)
        self.checked = time.monotonic()

    def admit(self, presented: str | None, scope: Scope) -> None:
        """Raises RequestError: 401 without a known key, 403 with one of the other scope."""
        self.renew()
        if presented is None:
            raise unauthorised("no API key was sent")
        scopes = matching(self.keys, presented)
        if not scopes:
            raise unauthorised("the API key is not known here")
        if scope not in scopes:
            raise RequestError(
                HTTPStatus.FORBIDDEN,
                "wrong_scope",
                "the API key opens something else",
                found=", ".join(sorted(scopes)),
                accepted=[scope],
            )

    def renew(self) -> None:
        """A file that has become unreadable changes nothing: who was let in still is, and the log says why."""
        now = time.monotonic()
        if now - self.checked < CHECKED_EVERY_S:
            return
        self.checked = now
        try:
            if (changed := changed_at(self.path)) != self.changed:
                self.keys = read_keys(self.path)
                self.changed = changed  # only now: what could not be read is tried again
                logger.info("%s: %d keys", self.path, len(self.keys))
        except (KeysError, OSError) as error:
            logger.error("the keys stay as they were: %s", error)


def matching(keys: Iterable[Key], presented: str) -> set[Scope]:
    """Every key is compared, each in constant time: how long it takes says nothing of them."""
    digest = hashlib.sha256(presented.encode(errors="replace")).digest()
    return {key.scope for key, same in [(key, hmac.compare_digest(key.sha256, digest)) for key in keys] if same}


def presented_in(headers: Mapping[bytes, bytes]) -> str | None:
    """`Authorization: Bearer KEY`, or `X-API-Key: KEY`."""
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get(b"x-api-key", b"").decode("latin-1").strip() or None


def read_keys(path: Path) -> tuple[Key, ...]:
    """Raises KeysError where a line is no key, or there is none."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise KeysError(f"{path}: a file of keys is expected, found something else")
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{path}: cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None or match["scope"] not in list(Scope):
            scopes = " or ".join(Scope)
            raise KeysError(f"{path}, line {number}: expected `SCOPE SHA256 [NAME]`, the scope {scopes}")
        found.append(Key(Scope(match["scope"]), bytes.fromhex(match["sha256"]), match["name"] or ""))
    if not found:
        raise KeysError(f"{path}: no keys in it; make one: python -m serving key --scope predict")
    return tuple(found)


def changed_at(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def new_key(scope: Scope, name: str) -> tuple[str, str]:
    """A key, and its line in the file."""
    key = secrets.token_urlsafe(32)
    return key, f"{scope} {hashlib.sha256(key.encode()).hexdigest()} {name}".rstrip()


def unauthorised(message: str) -> RequestError:
    return RequestError(
        HTTPStatus.UNAUTHORIZED,
        "unauthorised",
        message,
        accepted=["Authorization: Bearer KEY", "X-API-Key: KEY"],
        headers={"www-authenticate": "Bearer"},
    )
