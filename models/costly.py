"""Images that take long to read, whatever they show: known by their bytes, before anything is decoded.

What the size of an image bounds is its decoding. What a decoder does beside that is bounded by the file alone, and some
of it takes Pillow a step in Python for a few bytes, or the square of their number: of files that say 32 x 32, 3 MB of
comments in a PPM took 82 s, 4 MB of small Exif segments in a JPEG 31 s, 16 MB of fill bytes 8 s; and one of 2000 x
2000, 218 KB with 15,000 scans, 11 s. A thread that reads one cannot be stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PIL import Image
from PIL.JpegImagePlugin import MARKER

JPEG_BEGINS, SCAN = b"\xff\xd8\xff", b"\xff\xda"
EXIF = b"Exif\0\0"
MOST_SCANS = 100  # of a progressive JPEG, which has about ten
MOST_STEPS = 10_000  # before the pixels: markers, chunks, blocks, and bytes that are skipped one by one
MOST_EXIF = 16  # segments, which Pillow joins one by one; one holds 64 KB
TILE_WIDTH, TILE_LENGTH = 322, 323  # of TIFF
WITHOUT_LENGTH = {mark & 0xFF for mark, (_, _, handler) in MARKER.items() if handler is None}  # of JPEG's, to Pillow


class CostlyError(ValueError):
    """It would take too long."""


def refuse_costly(content: bytes) -> None:
    """Raises CostlyError."""
    for begins, check in CHECKS.items():
        if content.startswith(begins):
            check(content)


def refuse_scans(content: bytes) -> None:
    if (scans := content.count(SCAN)) > MOST_SCANS:
        raise CostlyError(f"a JPEG of {scans} scans; up to {MOST_SCANS} are read")


def refuse_jpeg(content: bytes) -> None:
    refuse_scans(content)
    head = content[: refuse_steps(jpeg_steps(content))]
    if (segments := head.count(EXIF)) > MOST_EXIF:
        raise CostlyError(f"a JPEG of {segments} Exif segments; up to {MOST_EXIF} are read")


def refuse_plain(_: bytes) -> None:
    raise CostlyError("a PPM of text, P1 to P3; those of bytes are read, P4 to P6")


def refuse_steps(places: Iterator[int]) -> int:
    """Where the last one is."""
    last = 0
    for step, last in enumerate(places):  # noqa: B007  the last is what is looked for
        if step == MOST_STEPS:
            raise CostlyError(f"more than {MOST_STEPS} segments")
    return last


def jpeg_steps(content: bytes) -> Iterator[int]:
    """Where each marker is, and each byte that Pillow skips."""
    at, end = 2, len(content) - 4
    while at < end:
        yield at
        mark = content[at + 1] if content[at] == 0xFF else None
        if mark in (None, 0xFF):
            at += 1
        elif mark == SCAN[1]:
            return
        elif mark == 0 or mark in WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4]))


def png_steps(content: bytes) -> Iterator[int]:
    at = 8
    while at < len(content):
        yield at
        at += 12 + int.from_bytes(content[at : at + 4])  # length, name, data and checksum


def gif_steps(content: bytes) -> Iterator[int]:
    """Blocks, and the pieces that they come in."""
    flags = content[10] if len(content) > 10 else 0
    at, is_block = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0), True
    while at < len(content):
        yield at
        if not is_block:  # a piece, by its length; one of none is the last
            is_block = content[at] == 0
            at += 1 + content[at]
        elif content[at] == 0x21:  # an extension, and its label
            at, is_block = at + 2, False
        elif content[at] == 0x2C:  # the image
            return
        else:
            at += 1


def pixels_at_once(image: Image.Image) -> int:
    """Those that are decoded together: of the image, or of a tile that is larger than it."""
    width, height = image.size
    if image.format != "TIFF":
        return width * height
    tags = image.tag_v2  # type: ignore[attr-defined]
    across, down = (tags.get(tag, 1) for tag in (TILE_WIDTH, TILE_LENGTH))
    if not (isinstance(across, int) and isinstance(down, int)):
        raise CostlyError("tiles of no size")
    return max(width * height, across * down)


CHECKS: dict[bytes, Callable[[bytes], object]] = {
    JPEG_BEGINS: refuse_jpeg,
    b"\x89PNG\r\n\x1a\n": lambda content: refuse_steps(png_steps(content)),
    b"GIF8": lambda content: refuse_steps(gif_steps(content)),
    **dict.fromkeys((b"P1", b"P2", b"P3"), refuse_plain),
}
