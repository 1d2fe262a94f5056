"""What would take long to read is refused at once, and nothing that people send is."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from models.costly import (
    MOST_DESCRIBED,
    MOST_FRACTIONS,
    MOST_IN_PYTHON,
    MOST_JOINED,
    MOST_SCANS,
    MOST_TEXTS,
)
from models.image_steps import MOST_DIRECTORIES, MOST_STEPS
from models.pixels import FORMATS, ImageError, ImageTooLargeError, read_pixels
from models.spec import CIFAR_PREPROCESSING


def saved(kind: str, size: tuple[int, int] = (32, 32), **options: object) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 50).convert("P" if kind == "GIF" else "RGB").save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


JPEG, PNG, GIF = saved("JPEG"), saved("PNG"), saved("GIF")
EXIF = b"\xff\xe1\0\x16Exif\0\0II*\0\x08\0\0\0" + bytes(6)  # of no entries
REST_OF_EXIF = b"\xff\xe1\0\x08Exif\0\0"
AFTER_COLOURS = 13 + 3 * 256
IN_PNG = 33


def jpeg(pieces: bytes, begin: bytes = EXIF) -> bytes:
    """Exif keeps it from the decoder that is not Pillow's."""
    return JPEG[:2] + begin + pieces + JPEG[2:]


def png(pieces: bytes) -> bytes:
    return PNG[:IN_PNG] + pieces + PNG[IN_PNG:]


def gif(pieces: bytes) -> bytes:
    assert GIF[10] & 0x87 == 0x87, "256 colours"
    return GIF[:AFTER_COLOURS] + pieces + GIF[AFTER_COLOURS:]


def progressive(scans: int, before: bytes = b"", between: bytes = b"") -> bytes:
    """The last scan again and again: a JPEG may refine nothing."""
    whole = saved("JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    repeated = (between + last) * (scans - whole.count(b"\xff\xda"))
    return whole[:2] + before + whole[2:-2] + repeated + whole[-2:]


def strips(count: int) -> bytes:
    """A TIFF of as many rows, each a strip of its own, all in one place."""
    places = struct.pack(f"<{count}L", *[8] * count) + struct.pack(f"<{count}L", *[1] * count)
    tags = [(256, 1, 1), (257, 1, count), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, 12), (277, 1, 1)]
    tags += [(278, 1, 1), (279, count, 12 + 4 * count)]
    entries = b"".join(struct.pack("<HHLL", tag, 4, number, value) for tag, number, value in tags)
    at = 12 + len(places)
    return b"II*\0" + struct.pack("<L", at) + bytes(4) + places + struct.pack("<H", len(tags)) + entries + bytes(4)


def run_lengths(width: int, height: int, rows: bytes = b"") -> bytes:
    header = struct.pack("<LiiHHLLLLLL", 40, width, height, 1, 8, 1, 4, 0, 0, 256, 0)
    return b"BM" + struct.pack("<LLL", 0, 0, 54 + 1024) + header + bytes(1024) + rows + b"\0\1"


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHLL", *entry) for entry in entries) + bytes(4)


def fractions(count: int) -> bytes:
    return b"II*\0\x08\0\0\0" + directory((0x0112, 5, count + 1, 8))


def inner_directories(count: int) -> bytes:
    """Each refers to the next."""
    size = len(directory((34665, 4, 1, 0)))
    return b"II*\0\x08\0\0\0" + b"".join(directory((34665, 4, 1, 8 + size * (at + 1))) for at in range(count + 1))


def heads(count: int) -> bytes:
    """As many, which all have the directory behind them."""
    entries = directory(*[(40_000 + at, 4, 1, 0) for at in range(100)])
    places = b"".join(b"II*\0" + struct.pack("<L", 8 * (count - at)) for at in range(count))
    return places + entries


def avif(name: bytes, content: bytes) -> bytes:
    whole = saved("AVIF")
    return whole + struct.pack(">L", 8 + len(content)) + name + content


TIFF = strips(1)
THUMBNAIL = b"\xff\xe3\0\x08\xff\xda\0\2\xff\xd9"
PPM_32 = b"P6\n32 32\n255\n" + bytes(32 * 32 * 3)
MOVIE = b"\0\xff\xda\0" * 300


@pytest.mark.parametrize(
    "content",
    [
        jpeg(b"\xff\xfe\0\2" * MOST_STEPS),
        jpeg(b"\xff" * MOST_STEPS),
        jpeg(b"\xff\xf0" + b"\0" * MOST_STEPS),
        jpeg(REST_OF_EXIF * MOST_JOINED),
        progressive(MOST_SCANS + 1),
        progressive(MOST_SCANS + 1, before=THUMBNAIL),
        progressive(MOST_SCANS + 1, between=b"\xff\1\xff\xff"),
        progressive(MOST_SCANS + 1, between=THUMBNAIL),
        png(chunk(b"aaAa") * MOST_STEPS),
        PNG[:-12] + chunk(b"aaAa") * MOST_STEPS + PNG[-12:],
        gif(b"!\xfe\1a\0" * MOST_STEPS),
        png(chunk(b"iCCP") * (MOST_JOINED + 1)),
        gif(b"!\xfe" + b"\1a" * MOST_STEPS + b"\0"),
        gif(b"!\xf9\0,,," + b"\1a" * (2 * MOST_STEPS) + b"\0"),
        gif(b"!\xff\x0bNETSCAPE2.0\0" + b"\1," * MOST_STEPS + b"\0"),
        b"P3\n1 1\n255\n" + b"#\n" * MOST_IN_PYTHON + b"0 0 0\n",
        b"P6\n1 1\n" + b"#\n" * MOST_IN_PYTHON + b"255\n123",
        b"P5\n1000 1000\n254\n" + bytes(10**6),
        strips(MOST_STEPS + 1),
        run_lengths(MOST_IN_PYTHON + 1, -1),
        run_lengths(32, 32, bytes(MOST_IN_PYTHON)),
        JPEG.replace(b"\xff\xc0", b"\xff\xca"),
        JPEG[:2] + JPEG[JPEG.index(b"\xff\xc0") : JPEG.index(b"\xff\xc4")] + JPEG[2:],
        png(chunk(b"zTXt") * (MOST_TEXTS + 1)),
        png(chunk(b"eXIf", fractions(MOST_FRACTIONS))),
        png(chunk(b"eXIf", heads(MOST_STEPS // 100 + 1))),
        png(chunk(b"eXIf", b"II*\0" * (MOST_STEPS + 1))),
        TIFF.replace(struct.pack("<HHLL", 256, 4, 1, 1), struct.pack("<HHLL", 282, 5, MOST_FRACTIONS + 1, 8)),
        inner_directories(MOST_DIRECTORIES),
        saved("TIFF", compression="jpeg"),
        avif(b"meta", bytes(MOST_DESCRIBED)),
        avif(b"moov", bytes(MOST_DESCRIBED)),
        avif(b"meta", b"infe\2\0\0\0grid"),
        PPM_32.replace(b"32 32", b"1 65536"),
    ],
    ids=[
        "comments", "fill", "junk", "exif", "scans", "scans behind a thumbnail", "scans behind marks",
        "scans behind ends", "chunks", "chunks behind", "extensions", "profiles", "pieces", "pieces behind none",
        "pieces behind a loop", "text", "comments of a PPM", "depths", "strips", "run lengths", "idle run lengths",
        "arithmetic", "frames", "texts", "fractions in Exif",
        "heads of Exif", "empty heads", "fractions", "directories",
        "JPEG in TIFF", "tables", "tracks", "grid", "side",
    ],
)  # fmt: skip
def test_it_is_refused_by_its_bytes(content: bytes) -> None:
    with pytest.raises(ImageError, match="would take too long to read: "):
        read_pixels(io.BytesIO(content), CIFAR_PREPROCESSING)


@pytest.mark.parametrize(
    "content",
    [
        jpeg(b"\xff\xfe\0\2" * (MOST_STEPS // 2)),
        jpeg(REST_OF_EXIF * (MOST_JOINED - 1)),
        progressive(MOST_SCANS),
        jpeg(b"") + MOVIE,
        JPEG + MOVIE,
        png(chunk(b"aaAa") * (MOST_STEPS // 2)),
        PNG + bytes(12 * MOST_STEPS),
        gif(b"!\xfe\1a\0" * (MOST_STEPS // 4)),
        gif(b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0!\xf9\4\0\0\0\0\0"),
        b"P3\n32 32\n255\n# text\n" + b"7 8 9\n" * 1024,
        PPM_32,
        PPM_32.replace(b"32 32", b"# two\n1000\t1000 ") + bytes(3 * 10**6),
        strips(MOST_STEPS),
        run_lengths(32, 32, b"\x20\7\0\0" * 32),
        *(saved(kind, (700, 500)) for kind in FORMATS),
    ],
    ids=[
        "comments",
        "exif",
        "scans",
        "movie",
        "movie behind",
        "chunks",
        "zeros behind",
        "extensions",
        "loop",
        "text",
        "little PPM",
        "large PPM",
        "strips",
        "run lengths",
        *FORMATS,
    ],
)
def test_what_is_within_the_limits_is_read(content: bytes) -> None:
    assert read_pixels(io.BytesIO(content), CIFAR_PREPROCESSING).shape == (32, 32, 3)


def tiled_tiff(side: int) -> bytes:
    """32 x 32 pixels in one tile of `side` x `side`."""
    data = zlib.compress(b"\0" * (side * side))
    tags = [
        (256, 32),
        (257, 32),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 8),
        (325, len(data)),
    ]
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<L", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tile_counts_with_all_its_pixels() -> None:
    assert read_pixels(io.BytesIO(tiled_tiff(64)), CIFAR_PREPROCESSING, 64 * 64).shape == (32, 32, 3)
    with pytest.raises(ImageTooLargeError, match=r"32 x 32, in tiles of 0\.0 megapixels"):
        read_pixels(io.BytesIO(tiled_tiff(80)), CIFAR_PREPROCESSING, 64 * 64)
