"""What a log tells: which request, which trace, and nothing of keys or images."""

from __future__ import annotations

import json
import logging
import struct
import time
import warnings
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from loadtests.local_service import LocalService, local_service
from serving.call import Call, current
from serving.config import LogFormat
from serving.logs import AboutCall, set_up
from tests.conftest import PAIR, ROOT
from tests.serving.test_http_api import encoded
from tests.serving.test_limits import answer, connect

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def talkative(exported_pair: tuple[str, str]) -> Iterator[LocalService]:
    environment = {
        "SERVING_MODELS": ",".join(exported_pair),
        "SERVING_ACCESS_LOG": "on",
        "SERVING_LOG_FORMAT": "json",
        "SERVING_SPLIT": f"{PAIR[0]}=3 {PAIR[1]}=1",
    }
    with local_service(environment=environment, folder=ROOT) as running:
        yield running


def entries(service: LocalService) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]


def entries_of(service: LocalService, request_id: str) -> list[dict[str, Any]]:
    """Once there are any: they are written after the answer."""
    ends = time.monotonic() + 10
    while not (found := [entry for entry in entries(service) if entry.get("request_id") == request_id]):
        assert time.monotonic() < ends
        time.sleep(0.01)
    return found


def test_every_request_is_a_json_object_with_its_id_and_trace(talkative: LocalService) -> None:
    headers = {"x-request-id": "mine", "traceparent": PARENT, "authorization": "Bearer secret"}
    httpx.post(f"{talkative.url}/classify?top_k=1", content=encoded(), headers=headers)
    httpx.get(f"{talkative.url}/nothing%0d%0aforged", headers={"x-request-id": "other"})
    (mine,) = entries_of(talkative, "mine")
    assert (mine["method"], mine["path"], mine["status"]) == ("POST", "/classify", 200)
    assert mine["trace_id"] == TRACE
    assert mine["milliseconds"] > 0
    assert mine["level"] == "INFO"
    (other,) = entries_of(talkative, "other")
    assert (other["status"], other["trace_id"]) == (404, None)
    assert "secret" not in talkative.log()


def test_what_is_no_request_is_one_line(talkative: LocalService) -> None:
    with connect(talkative) as connection:
        connection.sendall(b"no request\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 400")
    said = [entry for entry in entries(talkative) if entry["message"] == "Invalid HTTP request received."]
    assert len(said) == 1


def test_the_start_says_who_answers_and_with_how_many_threads(talkative: LocalService) -> None:
    messages = [entry["message"] for entry in entries(talkative)]
    assert f"requests that name no variant: {PAIR[0]} 75 %, {PAIR[1]} 25 %" in messages
    (sizing,) = [message for message in messages if "threads each" in message]
    assert "SERVING_WORKERS" in sizing


def record() -> logging.LogRecord:
    return logging.LogRecord("any", logging.INFO, "", 0, "any", None, None)


@pytest.mark.parametrize(
    ("parent", "trace"),
    [
        (PARENT, TRACE),
        ("", None),
        (PARENT.upper(), None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"{PARENT}-more", None),
        (f"00-{TRACE}", None),
    ],
)
def test_a_trace_is_taken_from_a_well_formed_header_alone(parent: str, trace: str | None) -> None:
    call = Call({"method": "GET", "path": "/"}, None, {b"traceparent": parent.encode()})  # type: ignore[arg-type]
    token = current.set(call)
    try:
        about = record()
        AboutCall().filter(about)
    finally:
        current.reset(token)
    assert about.__dict__["trace_id"] == trace
    assert (f"trace {TRACE}" in about.__dict__["trace_msg"]) == (trace is not None)


def test_what_pillow_thinks_of_an_image_is_no_line_of_the_log() -> None:
    """It warns of each tag that points beyond the file."""
    beyond = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHLL", 1, 40_000, 7, 100, 10**6) + bytes(4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.Exif().load(beyond)
        assert caught, "or nothing would have been kept quiet"
        caught.clear()
        set_up(LogFormat.TEXT)
        Image.Exif().load(beyond)
        assert not caught


def test_a_record_of_no_request_names_none() -> None:
    about = record()
    about.__dict__["request_id"] = None  # BentoML's filter leaves this
    AboutCall().filter(about)
    assert "request_id" not in about.__dict__
