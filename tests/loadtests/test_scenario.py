"""Made-up images have the size and about the bytes that were asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtests.input_file import InputFileError
from loadtests.scenario import payloads, read_size, tensors


@pytest.mark.parametrize(
    ("size", "image_bytes"), [((224, 224), None), ((32, 32), None), ((224, 160), 30_000), ((32, 32), 1500)]
)
def test_made_up_jpegs_have_their_size_and_bytes(size: tuple[int, int], image_bytes: int | None) -> None:
    made = payloads(size=size, image_bytes=image_bytes)
    assert len({payload.body for payload in made}) == 8
    assert made == payloads(size=size, image_bytes=image_bytes)
    for payload in made:
        image = Image.open(io.BytesIO(payload.body))
        assert (image.format, image.size) == ("JPEG", size)
        assert image_bytes is None or len(payload.body) == pytest.approx(image_bytes, rel=0.1)


def test_bytes_that_no_jpeg_of_the_size_has_are_said_so() -> None:
    with pytest.raises(ValueError, match="32 x 32 pixels has about 60000 bytes, the nearest has"):
        payloads(size=(32, 32), image_bytes=60_000)


def test_a_size_is_read_or_refused() -> None:
    assert read_size("320x240") == (320, 240)
    for text in ("224", "0x224", "224x224x3", "axb"):
        with pytest.raises(ValueError, match="expected WIDTHxHEIGHT"):
            read_size(text)


def test_images_of_a_folder_are_sent_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not looked at")
    (tmp_path / "notes.txt").write_text("no image")
    (payload,) = payloads(tmp_path)
    assert (payload.body, payload.headers["content-type"]) == (b"not looked at", "image/png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match="no images in it"):
        payloads(tmp_path / "empty")


def test_tensors_are_the_pixels_after_their_header() -> None:
    payload, *_ = tensors((1, 4, 5, 3))
    length = int(payload.headers["inference-header-content-length"])
    (given,) = json.loads(payload.body[:length])["inputs"]
    assert (given["shape"], given["datatype"]) == ([1, 4, 5, 3], "UINT8")
    assert len(payload.body) - length == np.prod(given["shape"]) == given["parameters"]["binary_data_size"]
