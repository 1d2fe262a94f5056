"""From an HTTP body to the bytes of encoded images."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from serving.call import Call
from serving.cycle import take_body
from serving.errors import RequestError

PARAMETERS = ("variant", "top_k")  # of the query; people also try them as form fields
MULTIPART_MARGIN = 64 << 10  # boundaries and part headers around an image
FORM = "multipart/form-data"


async def read_image(call: Call, limit: int) -> bytes:
    """The encoded image: the raw body, or the file `image` of a multipart form; at most `limit` bytes of it."""
    refuse_compressed(call)
    content_type = content_type_of(call)
    if content_type == FORM:
        encoded = await image_of_form(call, limit)
    elif content_type.startswith("image/") or content_type in {"", "application/octet-stream"}:
        encoded = await read_raw(call, limit)
    else:
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_type",
            "send the encoded image as the raw body, or as the file `image` of a multipart form",
            found=content_type,
            accepted=["image/*", "application/octet-stream", FORM],
        )
    refuse_empty_or_long(encoded, limit)
    return encoded


async def read_images(call: Call, most: int, limit: int) -> list[tuple[str, bytes]]:
    """Names and content of the files `images` of a multipart form: 1 to `most`, of `limit` bytes in all."""
    refuse_compressed(call)
    content_type = content_type_of(call)
    if content_type != FORM:
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_type",
            "send the images as files `images` of a multipart form",
            found=content_type,
            accepted=[FORM],
        )
    async with form_of(call, limit, "images", most) as form:
        files = [file for file in form.getlist("images") if isinstance(file, UploadFile)]
        return [(file.filename or "", await file.read()) for file in files]


async def read_tensors(call: Call, limit: int) -> bytes:
    """The raw body of an inference request, uncompressed; at most `limit` bytes of it."""
    refuse_compressed(call)
    return await read_raw(call, limit)


async def image_of_form(call: Call, limit: int) -> bytes:
    async with form_of(call, limit, "image", most=1) as form:
        (file,) = (file for file in form.getlist("image") if isinstance(file, UploadFile))
        return await file.read()


class InMemory(MultiPartParser):
    """Starlette's, without its temporary files: bodies are limited, and the file system may be read-only."""

    spool_max_size = 0

    @property
    def _charset(self) -> str:
        """Not what a client names: some of Python's encodings take the square of a field's length to decode it."""
        return "utf-8"

    @_charset.setter
    def _charset(self, _: str) -> None: ...

    @property
    def has_too_many_files(self) -> bool:
        return self._current_files > self.max_files


@asynccontextmanager
async def form_of(call: Call, limit: int, name: str, most: int) -> AsyncIterator[FormData]:
    """A form that has 1 to `most` files called `name`, and nothing else; `limit` bytes and what frames them."""
    all_in_all = limit + most * MULTIPART_MARGIN
    refuse_declared(call, all_in_all, limit)
    request = Request(call.scope, bounded(call, all_in_all, limit))
    parser = InMemory(request.headers, request.stream(), max_files=most, max_fields=8)
    try:
        form = await parser.parse()
    except (HTTPException, MultiPartException, ValueError) as error:  # ValueError: a charset with a NUL in it
        if parser.has_too_many_files:
            raise too_many_files(name, most) from None
        detail = error.detail if isinstance(error, HTTPException) else str(error) or type(error).__name__
        raise RequestError(
            HTTPStatus.BAD_REQUEST, "malformed_multipart", f"the multipart body is malformed: {detail}"
        ) from None
    try:
        refuse_surplus(form, name)
        yield form
    finally:
        await form.close()


def too_many_files(name: str, most: int) -> RequestError:
    several = "; /classify/batch takes several, as files `images`" if most == 1 else ""
    return RequestError(
        HTTPStatus.BAD_REQUEST,
        "too_many_files",
        f"the form has more files than are read, {most}{several}",
        found=f"more than {most}",
        accepted=[f"up to {most} of the name `{name}`"],
    )


def refuse_surplus(form: FormData, name: str) -> None:
    if not any(isinstance(file, UploadFile) for file in form.getlist(name)):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "no_image_field",
            f"the multipart form needs a file named `{name}`",
            found=", ".join(form) or "no field",
            accepted=[name],
        )
    if surplus := sorted(set(form) - {name}):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "unknown_field",
            f"unknown form fields {surplus}; {' and '.join(PARAMETERS)} are query parameters",
            found=", ".join(surplus),
            accepted=[name],
        )


async def read_raw(call: Call, limit: int) -> bytes:
    refuse_declared(call, limit, limit)
    whole = take_body(call.receive)
    if whole is not None:
        if len(whole) > limit:
            raise too_many_bytes(f"more than {limit} bytes", limit)
        call.hold(len(whole), is_whole=True)
        return whole
    receive = bounded(call, limit, limit)
    message = await receive()
    if not message.get("more_body", False):
        return body_of(message)  # as it came: most are in one piece
    pieces = [body_of(message)]
    while message.get("more_body", False):
        message = await receive()
        pieces.append(body_of(message))
    return b"".join(pieces)


def body_of(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return bytes(message.get("body", b""))


def bounded(call: Call, most: int, limit: int) -> Receive:
    """What it receives, refused as soon as it is above `most` bytes; people are told of the `limit`."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await call.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise too_many_bytes(f"more than {limit} bytes", limit)
        call.hold(len(message.get("body", b"")))
        return message

    return receive


def refuse_compressed(call: Call) -> None:
    """Raises RequestError for a body that its head says is not as it is."""
    coding = call.headers.get(b"content-encoding", b"identity")
    if coding != b"identity":
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_encoding",
            "compressed bodies are not read",
            found=coding.decode("latin-1")[:80],
            accepted=["identity"],
        )


def refuse_declared(call: Call, most: int, limit: int) -> None:
    """Raises RequestError for a body that is above `most` bytes by its own word."""
    declared = call.headers.get(b"content-length", b"")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > most):
        raise too_many_bytes(f"content-length {declared.decode()}", limit)


def content_type_of(call: Call) -> str:
    return call.header(b"content-type").partition(";")[0].strip().lower()


def refuse_empty_or_long(encoded: bytes, limit: int) -> None:
    """Raises RequestError for what is no image by its length alone."""
    if not encoded:
        raise RequestError(HTTPStatus.BAD_REQUEST, "empty_body", "the image has no bytes", found="0 bytes")
    if len(encoded) > limit:
        raise too_many_bytes(f"{len(encoded)} bytes", limit)


def too_many_bytes(found: str, limit: int) -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too_many_bytes",
        f"up to {limit} bytes are read",
        found=found[:80],
        accepted=[f"up to {limit} bytes"],
    )
