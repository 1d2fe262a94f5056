"""A client of the service, in both of its forms: encoded images to `/classify`, pixels by the Open Inference Protocol.

with Client("http://localhost:3000") as client:
    answer = client.classify(Path("photo.jpg").read_bytes())
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from serving.answers import BatchItem, Classification

KEY_VARIABLE = "PREFLIGHT_API_KEY"
HEADER_LENGTH = "inference-header-content-length"

Read = TypeVar("Read")


class ClientError(Exception):
    """No classification came."""


class UnreachableError(ClientError):
    """Nobody answers there, or not in time."""


class RefusedError(ClientError):
    """The service answered, and why not: `status` is HTTP's, `error` its word for it, `accepted` what it takes."""

    def __init__(self, status: int, error: str, message: str, accepted: Sequence[str] = ()) -> None:
        all_accepted = f"accepted: {', '.join(accepted)}"
        told = not accepted or all_accepted in message
        super().__init__(f"{status} {error}: {message}" + ("" if told else f"; {all_accepted}"))
        self.status, self.error, self.accepted = status, error, tuple(accepted)


class Client:
    """Keeps its connections; safe to use from several threads."""

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 30.0) -> None:
        """`key` is by default what PREFLIGHT_API_KEY holds. The service drops what it cannot answer in `timeout_s`.

        Raises ClientError where `url` or `key` is none.
        """
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"{url}: no URL of a service; expected such as http://localhost:3000")
        key = os.environ.get(KEY_VARIABLE) if key is None else key
        if key and not re.fullmatch(r"[!-~]+", key):  # a line end would begin a header more
            raise ClientError(f"the key ({KEY_VARIABLE}) holds spaces, line ends or letters beyond ASCII, as none does")
        headers = {"x-request-timeout-ms": str(max(1, round(timeout_s * 1e3)))}
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s + 1.0)

    def classify(self, encoded: bytes, variant: str | None = None, top_k: int = 5) -> Classification:
        """One encoded image, by `variant` or by whom the service chooses. Raises ClientError."""
        refuse_path(encoded)
        headers = {"content-type": "application/octet-stream"}
        response = self.post("/classify", params=query(variant, top_k), content=encoded, headers=headers)
        found: Classification = read(response, lambda: with_all(response.json(), "variant", "trained", "predictions"))
        return found

    def classify_batch(
        self, images: Sequence[tuple[str, bytes]], variant: str | None = None, top_k: int = 5
    ) -> list[BatchItem]:
        """Names and encoded images -> an item for each, in their order. Raises ClientError for the whole request."""
        for _, encoded in images:
            refuse_path(encoded)
        files = [("images", (name, encoded, "application/octet-stream")) for name, encoded in images]
        response = self.post("/classify/batch", params=query(variant, top_k), files=files)
        found: list[BatchItem] = read(response, lambda: response.json()["results"])
        return found

    def infer(self, pixels: NDArray[np.uint8], variant: str) -> NDArray[np.float32]:
        """uint8 [N, height, width, 3], resized and cropped as the variant wants them -> logits [N, classes]."""
        size = {"binary_data_size": pixels.nbytes}
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "parameters": size}
        header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
        response = self.post(f"/v2/models/{variant}/infer", content=header + pixels.tobytes(), headers=headers)
        return read(response, lambda: logits_in(response))

    def variants(self) -> list[dict[str, Any]]:
        """What is served, most of it as the artifacts' manifests say."""
        response = self.send("GET", "/variants")
        found: list[dict[str, Any]] = read(response, lambda: response.json()["variants"])
        return found

    def description(self) -> dict[str, Any]:
        """The service's OpenAPI document."""
        response = self.send("GET", "/docs.json")
        found: dict[str, Any] = read(response, response.json)
        return found

    def post(self, path: str, **content: Any) -> httpx.Response:
        return self.send("POST", path, **content)

    def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = self.http.request(method, path, **content)
        except httpx.ReadTimeout as error:
            raise UnreachableError(f"{self.http.base_url}: no answer within {self.http.timeout.read:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"{self.http.base_url}: {reason}; start the service: make serve") from error
        if response.is_success:
            return response
        raise refused(response)

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def refuse_path(encoded: object) -> None:
    """Raises TypeError: HTTPX would send the letters of a text as the image."""
    if isinstance(encoded, str | os.PathLike):
        raise TypeError(
            f"expected the bytes of an encoded image, found {encoded!r:.100}; those of a file: Path(...).read_bytes()"
        )


def query(variant: str | None, top_k: int) -> dict[str, str]:
    return {"top_k": str(top_k)} | ({"variant": variant} if variant is not None else {})


def logits_in(response: httpx.Response) -> NDArray[np.float32]:
    """Raw behind their description."""
    end = int(response.headers[HEADER_LENGTH])
    (output,) = json.loads(response.content[:end])["outputs"]
    return np.frombuffer(response.content, "<f4", offset=end).reshape(output["shape"])


def with_all(content: Any, *names: str) -> Any:
    """Raises KeyError or TypeError where one is missing."""
    for name in names:
        _ = content[name]
    return content


def read(response: httpx.Response, content: Callable[[], Read]) -> Read:
    """Raises RefusedError where it is not in our form: whatever stands between may say 200 as well."""
    try:
        return content()
    except (ValueError, KeyError, TypeError):
        raise RefusedError(response.status_code, "no_answer_of_ours", response.text[:200]) from None


def refused(response: httpx.Response) -> RefusedError:
    """Whatever stands between may answer as well, and not in our form."""
    try:
        content = response.json()
        return RefusedError(
            response.status_code,
            content["error"] if "message" in content else "refused",
            content.get("message", content["error"]),
            content.get("accepted", ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return RefusedError(response.status_code, "no_answer_of_ours", response.text[:200])
