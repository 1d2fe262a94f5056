"""Hostile input, at random: mutated images and mutated requests get 200 or a 4xx, and the worker lives on.

`make fuzz` runs the same with 10,000 images and 2,000 requests.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from loadtests.local_service import LocalService
from tests.serving.test_service import MEMORY_BOUND, peak_memory, worker


def no_fault(context: Any, response: Any, case: Any) -> None:
    """A 504 is no fault where a request asks for an answer within a millisecond."""
    assert response.status_code < 500 or response.status_code == 504


MODEL = "/v2/models/{variant}"
OPERATIONS = [
    ("POST", "/classify"),
    ("POST", "/classify/batch"),
    ("POST", "/explain"),
    ("GET", "/variants"),
    ("GET", "/v2"),
    ("GET", "/v2/models/stats"),
    *(("GET", path) for path in (MODEL, f"{MODEL}/ready", f"{MODEL}/config", f"{MODEL}/stats")),
    ("POST", f"{MODEL}/infer"),
    ("POST", f"{MODEL}/versions/{{version}}/infer"),
]
CHECKS = [no_fault, status_code_conformance, content_type_conformance, response_schema_conformance]
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
MODES = ("RGB", "L", "P")


def seed(kind: str, mode: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert("RGB" if (kind, mode) in {("JPEG", "P"), ("PPM", "P")} else mode).save(file, kind)
    return file.getvalue()


SEEDS = [seed(kind, mode) for kind in KINDS for mode in MODES]
position = st.floats(0, 1, exclude_max=True)
chunk = st.binary(min_size=1, max_size=16)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A readable image of any kind after one to eight accidents, most of them near its head."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 8))):
        at = int(draw(position) ** 3 * len(content))
        match draw(st.sampled_from(["overwrite", "insert", "delete", "truncate", "repeat", "splice"])):
            case "overwrite":
                piece = draw(chunk)
                content[at : at + len(piece)] = piece
            case "insert":
                content[at:at] = draw(chunk)
            case "delete":
                del content[at : at + draw(st.integers(1, 64))]
            case "truncate":
                del content[at:]
            case "repeat":
                content[at:at] = content[at : at + draw(st.integers(1, 256))] * draw(st.integers(1, 8))
            case "splice":
                content[at:] = draw(st.sampled_from(SEEDS))[at:]
        content = content or bytearray(b"\0")
    return bytes(content)


@pytest.fixture(scope="module")
def same_worker(service: LocalService) -> Iterator[psutil.Process]:
    """It is there before and after, and holds no more memory than is its due."""
    process = worker(service)
    with peak_memory(process) as memory:
        yield process
    assert worker(service).pid == process.pid
    assert process.is_running()
    assert memory[1] - memory[0] < MEMORY_BOUND


@pytest.fixture(scope="module")
def client(service: LocalService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as kept:
        yield kept


@given(content=mutated())
def test_a_mutated_image_is_classified_or_refused(
    client: httpx.Client, same_worker: psutil.Process, content: bytes
) -> None:
    answer = client.post("/classify", content=content, headers={"content-type": "image/any"})
    assert answer.status_code in {200, 400, 413}
    assert answer.json().keys() >= ({"predictions"} if answer.status_code == 200 else {"error", "message"})


@pytest.fixture(scope="module")
def description(service: LocalService) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/docs.json")


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@settings(max_examples=settings.default.max_examples // 5)
@given(data=st.data())
def test_a_mutated_request_gets_an_answer_that_is_described(
    description: Any, same_worker: psutil.Process, method: str, path: str, data: st.DataObject
) -> None:
    """As the OpenAPI page allows, and against what it says: parameters, headers and bodies of all kinds."""
    mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
    case = data.draw(description[path][method].as_strategy(generation_mode=mode))
    case.call_and_validate(timeout=30, checks=CHECKS)
