"""Images that take long to read, whatever they show: known by their bytes, before anything is decoded.

What the size of an image bounds is its decoding. What a decoder does beside that is bounded by the file alone, and some
of it takes Pillow a step in Python for a few bytes, or the square of their number: of files that say 32 x 32, 3 MB of
comments in a PPM took 82 s, 4 MB of small Exif segments in a JPEG 31 s, 16 MB of fill bytes 8 s; one of 2000 x 2000,
218 KB with 15,000 scans, 11 s; and 1.1 KB of a run-length encoded BMP 3.5 s. A thread that reads one cannot be stopped.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from itertools import chain

from PIL import Image

from models.image_steps import (
    MOST_STEPS,
    SCAN,
    CostlyError,
    Entry,
    boxes,
    counted,
    entries_of,
    gif_steps,
    jpeg_steps,
    places_of,
    png_steps,
)

JPEG_BEGINS, END = b"\xff\xd8\xff", b"\xff\xd9"
MARK = re.compile(rb"\xff[^\0\1\xd0-\xd7\xff]")  # what ends the data of a scan, with a length behind it but for END
EXIF = b"Exif\0\0"
MOST_SCANS = 100  # of a progressive JPEG, which has about ten
MOST_JOINED = 16  # of the segments of Exif, and of colour profiles: each is added, or unpacked, by itself
MOST_TEXTS = 100
MOST_IN_PYTHON = 250_000  # bytes, or pixels, that Pillow reads one by one: up to 0.7 s
MOST_FRACTIONS = 100_000  # in the directories of TIFF or Exif; each takes Python some microseconds
MOST_DESCRIBED = 64 << 10  # bytes of an AVIF's tables, which are read in the square of their number
MOST_SCANNED = 400_000_000  # pixels of all scans of a JPEG
LONGEST_SIDE = 65_535  # a row costs Pillow some bytes even where it has a pixel
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's markers of an image's size
ARITHMETIC = {*range(0xC9, 0xD0)}  # of those; no browser reads what it codes, and without data it goes on
LONGEST_FRAME = 8 + 3 * 4  # of four colours
STRIPS = {273, 279, 324, 325}  # the tags of TIFF that say where strips and tiles are, and how long
FRACTIONS = {5, 10}  # its types of two numbers
TILE_WIDTH, TILE_LENGTH = 322, 323
BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
QUICK_PPM = re.compile(
    rb"P(?:4%(b)s\d+%(b)s\d+|5%(b)s\d+%(b)s\d+%(b)s(?:255|65535)|6%(b)s\d+%(b)s\d+%(b)s255|f%(b)s\d+%(b)s\d+%(b)s\S+)\s"
    % {b"b": BETWEEN}
)


def refuse_costly(content: bytes) -> None:
    """Raises CostlyError."""
    for begins, check in CHECKS.items():
        if content.startswith(begins):
            check(content)
    if content[4:8] == b"ftyp":
        refuse_avif(content)


def refuse_jpeg(content: bytes) -> None:
    first, frames = 0, []
    for first in counted(jpeg_steps(content)):
        if content[first] == 0xFF and content[first + 1] in FRAMES:
            frames.append(first)
    if (segments := content.count(EXIF, 0, first)) > MOST_JOINED:
        raise CostlyError(f"a JPEG of {segments} Exif segments; up to {MOST_JOINED} are read")
    if len(frames) > 1 or any(content[at + 1] in ARITHMETIC for at in frames):
        raise CostlyError("a JPEG of several frames, or of arithmetic coding")
    for at in frames:
        length, _, height, width = struct.unpack(">HBHH", content[at + 2 : at + 9].ljust(7, b"\0"))
        most = min(MOST_SCANS, MOST_SCANNED // max(1, height * width))
        if length > LONGEST_FRAME:
            raise CostlyError("a JPEG of more than four colours")
        if content.count(SCAN) > most:
            refuse_scans(content, first, most)


def refuse_scans(content: bytes, first: int, most: int) -> None:
    """Of one picture: what looks like more may be of others, or of a video, behind its end."""
    at, scans = first, 0
    for _ in range(MOST_STEPS):
        mark = MARK.search(content, at)
        if mark is None or mark[0] == END:
            return
        scans += mark[0] == SCAN
        if scans > most:
            break
        at = mark.end() + max(2, int.from_bytes(content[mark.end() : mark.end() + 2]))
    raise CostlyError(f"a JPEG of more than {most} scans")


def refuse_png(content: bytes) -> None:
    for _ in counted(png_steps(content)):
        pass
    refuse_exif(content)
    if (texts := content.count(b"zTXt") + content.count(b"iTXt")) > MOST_TEXTS:
        raise CostlyError(f"a PNG of {texts} texts; up to {MOST_TEXTS} are read")
    if (profiles := content.count(b"iCCP")) > MOST_JOINED:
        raise CostlyError(f"a PNG of {profiles} colour profiles; up to {MOST_JOINED} are read")


def refuse_bmp(content: bytes) -> None:
    """Run-length encoded, it is decoded in Python."""
    width, height, compression = struct.unpack_from("<ii4xL", content.ljust(34, b"\0"), 18)
    if compression in {1, 2} and max(abs(width * height), len(content)) > MOST_IN_PYTHON:
        raise CostlyError(f"a run-length encoded BMP of more than {MOST_IN_PYTHON} pixels or bytes")


def refuse_ppm(content: bytes) -> None:
    """Text, odd ranges and long comments are read in Python."""
    if len(content) > MOST_IN_PYTHON and not QUICK_PPM.match(content[:1000]):
        raise CostlyError(
            f"a PPM of more than {MOST_IN_PYTHON} bytes that are text, or of other depths than 8 and 16 bits"
        )


def refuse_gif(content: bytes) -> None:
    for _ in counted(gif_steps(content)):
        pass


def refuse_avif(content: bytes) -> None:
    """Pillow reads its tables as it opens it, and holds Python's lock meanwhile."""
    described = 0
    for at, size in counted(boxes(content)):
        if content[at + 4 : at + 8] in {b"meta", b"moov"}:
            described += size
            if content.find(b"grid", at, at + size) >= 0:
                raise CostlyError("an AVIF that is put together from others")
    if described > MOST_DESCRIBED:
        raise CostlyError(f"an AVIF with more than {MOST_DESCRIBED} bytes of tables")
    refuse_exif(content)


def refuse_exif(content: bytes) -> None:
    """Wherever it may be. What only looks like it hardly ever says that it has a directory within the file."""
    refuse_entries(chain.from_iterable(entries_of(content, at) for at in counted(places_of(content))))


def refuse_tiff(content: bytes) -> None:
    refuse_entries(entries_of(content, 0))


def refuse_entries(entries: Iterator[Entry]) -> None:
    """Counted together, wherever they come from: many heads may share a long directory."""
    fractions = 0
    for tag, kind, count, _ in counted(entries):
        fractions += count if kind in FRACTIONS else 0
        if fractions > MOST_FRACTIONS:
            raise CostlyError(f"more than {MOST_FRACTIONS} fractions in TIFF or Exif")
        if tag in STRIPS and count > MOST_STEPS:
            raise CostlyError(f"a TIFF of {count} strips or tiles; up to {MOST_STEPS} are read")


def pixels_at_once(image: Image.Image) -> int:
    """Those that are decoded together: of the image, or of a tile that is larger than it."""
    width, height = image.size
    if max(width, height) > LONGEST_SIDE:
        raise CostlyError(f"{width} x {height} pixels; up to {LONGEST_SIDE} are read in a row")
    if image.format != "TIFF":
        return width * height
    if "jpeg" in image.info.get("compression", ""):  # which may be higher than the image
        raise CostlyError("a TIFF with a JPEG in it")
    tags = image.tag_v2  # type: ignore[attr-defined]
    across, down = (tags.get(tag, 1) for tag in (TILE_WIDTH, TILE_LENGTH))
    if not (isinstance(across, int) and isinstance(down, int)):
        raise CostlyError("tiles of no size")
    return max(width * height, across * down)


CHECKS: dict[bytes, Callable[[bytes], None]] = {
    JPEG_BEGINS: refuse_jpeg,
    b"\x89PNG\r\n\x1a\n": refuse_png,
    b"GIF8": refuse_gif,
    b"BM": refuse_bmp,
    b"RIFF": refuse_exif,  # WebP
    **dict.fromkeys((b"II", b"MM"), refuse_tiff),
    b"P": refuse_ppm,
}
