"""From an HTTP body to the bytes of one encoded image."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

from serving.errors import RequestError

PARAMETERS = ("variant", "top_k")  # of the query; people also try them as form fields
MULTIPART_MARGIN = 64 << 10  # boundaries and part headers around the image


async def read_image(request: Request, limit: int) -> bytes:
    """The encoded image: the raw body, or the file `image` of a multipart form; at most `limit` bytes of it."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        encoded = await read_multipart(limited(request, limit, MULTIPART_MARGIN))
    elif content_type.startswith("image/") or content_type in {"", "application/octet-stream"}:
        encoded = await limited(request, limit).body()
    else:
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_type",
            "send the encoded image as the raw body, or as the file `image` of a multipart form",
            found=content_type,
            accepted=["image/*", "application/octet-stream", "multipart/form-data"],
        )
    if not encoded:
        raise RequestError(HTTPStatus.BAD_REQUEST, "empty_body", "the image has no bytes", found="0 bytes")
    if len(encoded) > limit:
        raise too_many_bytes(f"{len(encoded)} bytes", limit)
    return encoded


async def read_tensors(request: Request, limit: int) -> bytes:
    """The raw body of an inference request, uncompressed; at most `limit` bytes of it."""
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_encoding",
            "compressed bodies are not read",
            found=coding,
            accepted=["identity"],
        )
    return await limited(request, limit).body()


async def read_multipart(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            image = form.get("image")
            surplus = sorted(set(form) - {"image"})
            if isinstance(image, UploadFile) and surplus:
                raise RequestError(
                    HTTPStatus.BAD_REQUEST,
                    "unknown_field",
                    f"unknown form fields {surplus}; {' and '.join(PARAMETERS)} are query parameters",
                    found=", ".join(surplus),
                    accepted=["image"],
                )
            if isinstance(image, UploadFile):
                return await image.read()
            fields = ", ".join(form) or "no field"
    except (HTTPException, MultiPartException, ValueError) as error:  # ValueError: a charset that names no encoding
        detail = error.detail if isinstance(error, HTTPException) else str(error) or type(error).__name__
        raise RequestError(
            HTTPStatus.BAD_REQUEST, "malformed_multipart", f"the multipart body is malformed: {detail}"
        ) from None
    raise RequestError(
        HTTPStatus.BAD_REQUEST,
        "no_image_field",
        "the multipart form needs a file named `image`",
        found=fields,
        accepted=["image"],
    )


def limited(request: Request, limit: int, margin: int = 0) -> Request:
    """The same request, refused as soon as its body is known to be longer than `limit` bytes and the margin."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit + margin:
        raise too_many_bytes(f"content-length {declared}", limit)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit + margin:
            raise too_many_bytes(f"more than {limit} bytes", limit)
        return message

    return Request(request.scope, receive)


def too_many_bytes(found: str, limit: int) -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too_many_bytes",
        f"up to {limit} bytes are read",
        found=found,
        accepted=[f"up to {limit} bytes"],
    )
