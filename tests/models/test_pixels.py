"""Images come out as a person would see them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.pixels import (
    LARGE,
    SMALL_BYTES,
    ImageTooLargeError,
    as_seen,
    is_small_jpeg,
    plain_jpeg,
    read_image,
    read_pixels,
    resize_and_crop,
)
from models.spec import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING, Preprocessing

NOISE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def corner(image: Image.Image) -> tuple[int, ...]:
    pixel = as_seen(image).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("side", [6_000, 20_000])
@pytest.mark.parametrize(("max_pixels", "told"), [(25_000_000, "25"), (30_000_000, "30")])
def test_too_large_an_image_is_told_one_limit(side: int, max_pixels: int, told: str) -> None:
    """Pillow has one of its own, above which it does not even open them."""
    header = f"P6 {side} {side} 255\n".encode()
    with pytest.raises(ImageTooLargeError, match=rf"{side**2 / 1e6} megapixels; at most {told} are accepted$"):
        read_image(io.BytesIO(header), max_pixels)


def test_where_no_limit_is_given_pillows_is_told() -> None:
    with pytest.raises(ImageTooLargeError, match=r"^the image is 400\.0 megapixels; at most 178\.957 are accepted$"):
        read_image(io.BytesIO(b"P6 20000 20000 255\n"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    upright = np.zeros((2, 4, 3), np.uint8)
    upright[0, 0] = 255
    rotate = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}[orientation]  # quarter turns, counter-clockwise
    stored = np.rot90(upright, rotate)
    if orientation in (2, 4, 5, 7):
        stored = np.fliplr(stored) if orientation in (2, 4) else np.flipud(stored)
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    seen = np.asarray(as_seen(Image.open(file)))
    assert np.array_equal(seen, upright)


def test_transparency_shows_white_behind_it() -> None:
    assert corner(Image.new("RGBA", (2, 2), (255, 0, 0, 0))) == WHITE
    assert corner(Image.new("RGBA", (2, 2), (255, 0, 0, 255))) == RED
    assert corner(Image.new("LA", (2, 2), (0, 0))) == WHITE
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([*RED, *WHITE])
    palette.info["transparency"] = 0
    assert corner(palette) == WHITE


def test_sixteen_bits_keep_their_brightness() -> None:
    image = Image.fromarray(np.full((2, 2), 0x8000, np.uint16))
    assert image.mode == "I;16"
    assert corner(image) == (128, 128, 128)
    assert corner(Image.fromarray(np.full((2, 2), 0.5, np.float32))) == (128, 128, 128)


@pytest.mark.parametrize(
    ("mode", "color", "seen"), [("CMYK", (0, 255, 255, 0), RED), ("L", 7, (7, 7, 7)), ("1", 1, WHITE)]
)
def test_other_modes_become_rgb(mode: str, color: object, seen: tuple[int, int, int]) -> None:
    assert corner(Image.new(mode, (2, 2), color)) == seen  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [255.0, -3.0, float("nan"), float("inf")])
def test_floats_beyond_their_range_are_read_without_fuss(value: float) -> None:
    samples = np.full((2, 2), value, np.float32)
    samples[0, 0] = 0.5
    assert as_seen(Image.fromarray(samples)).mode == "RGB"


def test_a_strip_is_cut_to_its_middle() -> None:
    strip = Image.new("RGB", (1, 1001), "black")
    strip.putpixel((0, 500), RED)
    pixels = resize_and_crop(strip, CIFAR_PREPROCESSING)
    assert pixels.shape == (32, 32, 3)
    assert pixels[..., 0].max() > 200


@given(width=st.integers(1, 90), height=st.integers(1, 90), crop=st.integers(1, 40), margin=st.integers(0, 20))
def test_any_size_comes_out_as_the_crop(width: int, height: int, crop: int, margin: int) -> None:
    preprocessing = Preprocessing(crop + margin, crop, (0, 0, 0), (1, 1, 1))
    assert resize_and_crop(Image.new("RGB", (width, height)), preprocessing).shape == (crop, crop, 3)


def test_an_image_of_the_networks_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(resize_and_crop(Image.fromarray(pixels), CIFAR_PREPROCESSING), pixels)


def jpeg(size: tuple[int, int] = (37, 53), mode: str = "RGB", **options: object) -> bytes:
    """Of soft colours and hard edges."""
    picture = Image.fromarray(NOISE).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def jpeg_scan() -> bytes:
    """The last of a progressive JPEG's ten: more of them are more to decode."""
    content = jpeg(progressive=True)
    return content[content.rindex(b"\xff\xda") : -2]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32), (37, 53), (500, 375)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [1, 50, 75, 100])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_a_plain_jpeg_has_the_pixels_that_pillow_gives_it(
    size: tuple[int, int], subsampling: str, quality: int, options: dict[str, object]
) -> None:
    content = jpeg(size, subsampling=subsampling, quality=quality, **options)
    plain = plain_jpeg(content, LARGE)
    assert plain is not None
    np.testing.assert_array_equal(plain, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("preprocessing", [CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING])
@pytest.mark.parametrize("size", [(32, 32), (40, 30), (300, 200), (224, 224)])
def test_pixels_are_the_same_whichever_way_they_were_decoded(
    size: tuple[int, int], preprocessing: Preprocessing
) -> None:
    content = jpeg(size)
    expected = resize_and_crop(read_image(io.BytesIO(content)), preprocessing)
    np.testing.assert_array_equal(read_pixels(io.BytesIO(content), preprocessing), expected)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


def rotated_by_xmp() -> bytes:
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    return jpeg(xmp=packet)


@pytest.mark.parametrize(
    "content",
    [
        rotated(),
        rotated_by_xmp(),
        jpeg(mode="L"),
        jpeg(mode="CMYK"),
        jpeg()[:400],
        jpeg()[:2] + jpeg()[4:],
        b"",
        b"GIF89a",
    ],
)
def test_what_is_not_plain_is_left_to_pillow(content: bytes) -> None:
    assert plain_jpeg(content, LARGE) is None


@pytest.mark.parametrize("content", [rotated(), rotated_by_xmp()])
def test_a_rotated_jpeg_comes_out_upright(content: bytes) -> None:
    assert read_image(io.BytesIO(content)).size == (53, 37)


def test_a_jpeg_of_more_pixels_than_allowed_is_not_decoded() -> None:
    assert plain_jpeg(jpeg((40, 30)), 1199) is None
    assert plain_jpeg(jpeg((40, 30)), 1200) is not None


@pytest.mark.parametrize(
    ("content", "small"),
    [
        (jpeg((256, 256)), True),
        (jpeg((256, 257)), False),
        (jpeg(progressive=True), True),
        (rotated(), False),
        (jpeg(mode="L"), False),
        (jpeg(progressive=True)[:-2] + 9 * jpeg_scan() + b"\xff\xd9", False),
        (jpeg((40, 30)) + bytes(SMALL_BYTES), False),
        (b"\xff\xd8\xff", False),
        (b"\x89PNG", False),
    ],
)
def test_a_small_jpeg_is_known_by_its_header(content: bytes, small: bool) -> None:
    assert is_small_jpeg(content) is small
