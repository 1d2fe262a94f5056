"""The body of an inference request of the Open Inference Protocol, and of its answer.

JSON alone, or JSON followed by raw tensors (the binary tensor extension, whose header says how long the JSON is):
https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md and extension_classification.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json, to_json
from starlette.responses import Response

from export.artifact import Manifest
from serving.errors import RequestError

HEADER_LENGTH = b"inference-header-content-length"
PIXELS = "pixels are 0 to 255, and the graph normalises them itself"
LOOKED_AT = 10_000  # values among which one is looked for that tells what is wrong
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


class RequestInput(BaseModel):
    """Pixels; unknown parameters are ignored, as the protocol wants."""

    name: str
    datatype: str
    shape: list[int] = Field(max_length=8)
    parameters: dict[str, Any] = Field({}, description="`binary_data_size`: bytes of the tensor behind the JSON")
    data: Any = Field(None, description="whole numbers from 0 to 255, flat or nested; none where they come as bytes")


class RequestOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = Field(
        {}, description="`binary_data`: the tensor as bytes; `classification`: so many best classes in place of logits"
    )


class InferenceRequest(BaseModel):
    """What the answer is to be of; where raw tensors follow, a header says how long it is."""

    id: str = Field("", max_length=256, description="comes back with the answer")
    inputs: list[RequestInput] = Field(max_length=8)
    outputs: list[RequestOutput] = Field(default=[], max_length=8)
    parameters: dict[str, Any] = Field({}, description="`binary_data_output`: every output as bytes")


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """`classes` best classes of each image in place of logits, where that is not 0; `binary`: as raw bytes."""

    id: str
    pixels: NDArray[np.uint8]  # [N, crop, crop, 3]
    classes: int
    binary: bool


def read_request(content: bytes, header_length: bytes | None, manifest: Manifest) -> TensorRequest:
    """Raises RequestError (400) where anything is not as the model's metadata says."""
    end = len(content) if header_length is None else json_length(header_length, len(content))
    try:
        body = InferenceRequest.model_validate(from_json(content[:end]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise bad("bad_request", f"{where or 'the body'}: {first['msg']}") from None
    except ValueError as error:
        raise bad("bad_json", f"the first {end} bytes are not JSON: {error}") from None
    (tensor,) = only(body.inputs, manifest.input.name)
    classes, binary = read_outputs(body, manifest)
    return TensorRequest(body.id, read_pixels(tensor, memoryview(content)[end:], manifest), classes, binary)


def json_length(text: bytes, size: int) -> int:
    if not (text.isdigit() and len(text) < 20 and int(text) <= size):
        found, name = text[:40].decode("latin-1"), HEADER_LENGTH.decode()
        raise bad("bad_header_length", f"{name} is no number of bytes of this body", found, f"up to {size}")
    return int(text)


def only(inputs: list[RequestInput], name: str) -> list[RequestInput]:
    if [tensor.name for tensor in inputs] != [name]:
        found = ", ".join(tensor.name for tensor in inputs) or "none"
        raise bad("bad_inputs", "the model has another input", found, name)
    return inputs


def read_outputs(body: InferenceRequest, manifest: Manifest) -> tuple[int, bool]:
    name = manifest.output.name
    unknown = [output.name for output in body.outputs if output.name != name]
    if unknown or len(body.outputs) > 1:
        raise bad("bad_outputs", "the model has one output", ", ".join(output.name for output in body.outputs), name)
    parameters = body.parameters | (body.outputs[0].parameters if body.outputs else {})
    binary = parameters.get("binary_data", parameters.get("binary_data_output", False))
    classes = parameters.get("classification", 0)
    if not isinstance(binary, bool) or not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise bad(
            "bad_parameters",
            "binary_data is true or false, classification a whole number from 0 up",
            f"{kind_of(binary)}, {kind_of(classes)}",
        )
    return min(classes, len(manifest.labels)), binary


def read_pixels(tensor: RequestInput, raw: memoryview, manifest: Manifest) -> NDArray[np.uint8]:
    expected = (manifest.max_batch_size, *manifest.input.shape[1:])
    datatype = DATATYPES[manifest.input.dtype]
    if tensor.datatype != datatype:
        raise bad("bad_datatype", f"{tensor.name} has another datatype: {PIXELS}", tensor.datatype, datatype)
    batch, *rest = tensor.shape or [0]
    if not 1 <= batch <= manifest.max_batch_size or tuple(rest) != expected[1:]:
        raise bad(
            "bad_shape",
            f"{tensor.name} has another shape",
            str(tensor.shape),
            f"[1 to {expected[0]}, {rest_of(expected)}]",
        )
    size = math.prod(tensor.shape)
    declared = tensor.parameters.get("binary_data_size")
    if declared is None:
        return from_numbers(tensor, size, len(raw))
    if declared != size or len(raw) != size or tensor.data is not None:
        found = f"binary_data_size {kind_of(declared)}, {len(raw)} bytes behind the JSON"
        raise bad("bad_size", f"{tensor.name} has {size} bytes by its shape", found, f"{size} and no `data`")
    return np.frombuffer(raw, np.uint8).reshape(tensor.shape)


def from_numbers(tensor: RequestInput, size: int, surplus: int) -> NDArray[np.uint8]:
    numbers = whole_numbers(tensor.data, size, len(tensor.shape))
    if numbers is None or surplus:
        found = f"{no_pixel(tensor.data, len(tensor.shape)) or kind_of(tensor.data)}, {surplus} bytes behind the JSON"
        message = f"`data` of {tensor.name} has to be {size} whole numbers: {PIXELS}"
        raise bad("bad_data", message, found, "a flat or nested list")
    if min(numbers) < 0 or max(numbers) > 255:
        found = "a number below 0" if min(numbers) < 0 else "a number above 255"
        raise bad("bad_data", f"`data` of {tensor.name} is of bytes", found, "0 to 255")
    return np.array(numbers, np.uint8).reshape(tensor.shape)


def whole_numbers(data: Any, size: int, depth: int) -> list[int] | None:
    """All `size` of them, row after row of a list that is nested up to `depth`; None where there is anything else.

    NumPy is not asked what it is: of one long text among many short ones it makes as many long ones.
    """
    level = data
    for _ in range(depth):
        if type(level) is not list or not 0 < len(level) <= size:
            return None
        kinds = set(map(type, level))
        if kinds == {int}:
            return level if len(level) == size else None
        if kinds != {list} or len(set(map(len, level))) > 1:  # other things, or rows of different lengths
            return None
        level = list(islice(chain.from_iterable(level), size + 1))
    return None


def no_pixel(data: Any, depth: int) -> str:
    """The first value of a list that cannot be one; of `LOOKED_AT` alone, for hostile bodies have millions."""
    first = islice(values(data, depth), LOOKED_AT) if type(data) is list else ()
    return next((kind_of(value) for value in first if type(value) is not int or not 0 <= value <= 255), "")


def values(data: Any, depth: int) -> Iterator[Any]:
    """What is in a list that is nested up to `depth`. An empty one is a value as well: millions are no long walk."""
    if type(data) is not list or not data or not depth:
        yield data
        return
    for each in data:
        yield from values(each, depth - 1)


def kind_of(data: Any) -> str:
    """In no more words, however long it would be if it was written out."""
    if isinstance(data, bool | float) or (isinstance(data, int) and abs(data) < 1e18):
        return str(data)
    return f"a list of {len(data)}" if isinstance(data, list) else f"a {type(data).__name__}"


def rest_of(shape: tuple[Any, ...]) -> str:
    return ", ".join(map(str, shape[1:]))


def bad(error: str, message: str, found: str = "", accepted: str = "") -> RequestError:
    return RequestError(
        HTTPStatus.BAD_REQUEST, error, message, found=found[:200], accepted=[accepted] if accepted else []
    )


def write_answer(request: TensorRequest, logits: NDArray[np.float32], manifest: Manifest, version: str) -> Response:
    output = tensor_of(request, logits, manifest)
    content = output.pop("content")
    if request.binary:
        output["parameters"] = {"binary_data_size": len(content)}
    header = to_json(
        {"model_name": manifest.variant, "model_version": version}
        | ({"id": request.id} if request.id else {})
        | {"outputs": [output]}
    )
    if not request.binary:
        return Response(header, media_type="application/json")
    length = {HEADER_LENGTH.decode(): str(len(header))}
    return Response(header + content, headers=length, media_type="application/octet-stream")


def tensor_of(request: TensorRequest, logits: NDArray[np.float32], manifest: Manifest) -> dict[str, Any]:
    """One output with its `data`, or with its raw `content`."""
    name = manifest.output.name
    if not request.classes:
        described = {"name": name, "datatype": DATATYPES[manifest.output.dtype], "shape": list(logits.shape)}
        if request.binary:
            return described | {"content": logits.astype("<f4").tobytes()}
        return described | {"data": logits.ravel().tolist(), "content": b""}
    best = np.argsort(-logits, axis=1, kind="stable")[:, : request.classes]
    texts = [
        f"{logits[row, index]:f}:{index}:{manifest.labels[index]}"
        for row, indices in enumerate(best)
        for index in indices
    ]
    described = {"name": name, "datatype": "BYTES", "shape": list(best.shape)}
    if not request.binary:
        return described | {"data": texts, "content": b""}
    encoded = [text.encode() for text in texts]
    return described | {"content": b"".join(struct.pack("<I", len(text)) + text for text in encoded)}
