"""What one simulated client does: post an image, check the answer, post the next."""

from __future__ import annotations

import io
import itertools
import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from locust import FastHttpUser, constant, task
from PIL import Image


@dataclass(frozen=True, slots=True)
class Payload:
    """A request: its path and what its answer has to contain, both with `{variant}` for the variant's name."""

    body: bytes
    headers: Mapping[str, str]
    path: str
    answered: str


def encoded(body: bytes, content_type: str) -> Payload:
    """An encoded image for the service to decode."""
    return Payload(body, {"content-type": content_type}, "/classify?variant={variant}", '"variant":"{variant}"')


def tensors(shape: Sequence[int], count: int = 8) -> list[Payload]:
    """Random pixels of a shape [N, crop, crop, 3] by the Open Inference Protocol, as raw bytes: nothing to decode."""
    found = []
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        size = {"binary_data_size": pixels.nbytes}
        given = {"name": "images", "datatype": "UINT8", "shape": list(shape), "parameters": size}
        header = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))}
        path, answered = "/v2/models/{variant}/infer", '"model_name":"{variant}"'
        found.append(Payload(header + pixels.tobytes(), headers, path, answered))
    return found


def payloads(folder: Path | None) -> list[Payload]:
    """The images of a folder, or, without one, eight made-up 224 x 224 JPEGs of about 10 KB: smooth noise."""
    if folder is None:
        return [made_up(seed) for seed in range(8)]
    paths = sorted(path for path in folder.iterdir() if (mimetypes.guess_type(path)[0] or "").startswith("image/"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no images in it")
    return [encoded(path.read_bytes(), mimetypes.guess_type(path)[0] or "") for path in paths]


def made_up(seed: int) -> Payload:
    noise = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((224, 224), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return encoded(file.getvalue(), "image/jpeg")


class ClassifyUser(FastHttpUser):
    """A client in a closed workload: it sends the next request as soon as the last is answered."""

    abstract = True
    wait_time = constant(0)
    connection_timeout = 10.0
    network_timeout = 10.0
    variant: ClassVar[str]
    images: ClassVar[Sequence[Payload]]
    started: ClassVar[Iterator[int]] = itertools.count()

    def on_start(self) -> None:
        first = next(self.started) % len(self.images)  # clients do not march in step
        self.upcoming = itertools.cycle([*self.images[first:], *self.images[:first]])

    def on_stop(self) -> None:
        self.client.client.close()

    @task
    def classify(self) -> None:
        image = next(self.upcoming)
        with self.client.post(
            image.path.format(variant=self.variant),
            data=image.body,  # type: ignore[arg-type]  # its annotation forgets bytes
            headers=dict(image.headers),
            name=self.variant,
            catch_response=True,
        ) as response:
            text = (response.content or b"").decode(errors="replace")
            if not response.status_code:  # no answer at all
                response.failure(f"no answer: {getattr(response, 'error', None)!r}")
            elif response.status_code != 200:
                response.failure(f"{response.status_code}: {text[:200]}")
            elif image.answered.replace("{variant}", self.variant) not in text.replace(": ", ":"):
                response.failure(f"no answer of {self.variant}: {text[:200]}")


def user_of(variant: str, images: Sequence[Payload]) -> type[ClassifyUser]:
    """A user class that asks one variant."""
    return type("ClassifyUser", (ClassifyUser,), {"variant": variant, "images": images, "abstract": False})
