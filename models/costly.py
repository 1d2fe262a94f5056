"""Images that take long to read, whatever they show: known by their bytes, before anything is decoded.

What the size of an image bounds is its decoding. What a decoder does beside that is bounded by the file alone, and some
of it takes Pillow a step in Python for a few bytes, or the square of their number: of files that say 32 x 32, 3 MB of
comments in a PPM took 82 s, 4 MB of small Exif segments in a JPEG 31 s, 16 MB of fill bytes 8 s; one of 2000 x 2000,
218 KB with 15,000 scans, 11 s; and 1.1 KB of a run-length encoded BMP 3.5 s. A thread that reads one cannot be stopped.

The walks below are Pillow's own, from `PIL/*ImagePlugin.py`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from PIL import Image
from PIL.JpegImagePlugin import MARKER

JPEG_BEGINS, SCAN, END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
MARK = re.compile(rb"\xff[^\0\1\xd0-\xd7\xff]")  # what ends the data of a scan, with a length behind it but for END
EXIF = b"Exif\0\0"
MOST_SCANS = 100  # of a progressive JPEG, which has about ten
MOST_STEPS = 10_000  # before the pixels: markers, chunks, blocks, strips, and bytes that are skipped one by one
MOST_JOINED = 16  # of the segments of Exif, and of colour profiles: each is added, or unpacked, by itself
MOST_IN_PYTHON = 250_000  # bytes, or pixels, that Pillow reads one by one: about 0.5 s
STRIPS = {273, 324}  # the tags of TIFF that say where strips and tiles are
TILE_WIDTH, TILE_LENGTH = 322, 323  # of TIFF
BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
QUICK_PPM = re.compile(
    rb"P(?:4%(b)s\d+%(b)s\d+|5%(b)s\d+%(b)s\d+%(b)s(?:255|65535)|6%(b)s\d+%(b)s\d+%(b)s255|f%(b)s\d+%(b)s\d+%(b)s\S+)\s"
    % {b"b": BETWEEN}
)
WITHOUT_LENGTH = {mark & 0xFF for mark, (_, _, handler) in MARKER.items() if handler is None}  # of JPEG's, to Pillow


class CostlyError(ValueError):
    """It would take too long."""


def refuse_costly(content: bytes) -> None:
    """Raises CostlyError."""
    for begins, check in CHECKS.items():
        if content.startswith(begins):
            check(content)


def refuse_jpeg(content: bytes) -> None:
    first = refuse_steps(jpeg_steps(content))
    if (segments := content.count(EXIF, 0, first)) > MOST_JOINED:
        raise CostlyError(f"a JPEG of {segments} Exif segments; up to {MOST_JOINED} are read")
    if content.count(SCAN) > MOST_SCANS:
        refuse_scans(content, first)


def refuse_scans(content: bytes, first: int) -> None:
    """Of one picture: what looks like more may be of others, or of a video, behind its end."""
    at, scans = first, 0
    for _ in range(MOST_STEPS):
        mark = MARK.search(content, at)
        if mark is None or mark[0] == END:
            return
        scans += mark[0] == SCAN
        if scans > MOST_SCANS:
            break
        at = mark.end() + max(2, int.from_bytes(content[mark.end() : mark.end() + 2]))
    raise CostlyError(f"a JPEG of more than {MOST_SCANS} scans")


def refuse_png(content: bytes) -> None:
    refuse_steps(png_steps(content))
    if (profiles := content.count(b"iCCP")) > MOST_JOINED:
        raise CostlyError(f"a PNG of {profiles} colour profiles; up to {MOST_JOINED} are read")


def refuse_bmp(content: bytes) -> None:
    """Run-length encoded, it is decoded in Python."""
    width, height, compression = struct.unpack_from("<ii4xL", content.ljust(34, b"\0"), 18)
    if compression in {1, 2} and abs(width * height) > MOST_IN_PYTHON:
        raise CostlyError(f"a run-length encoded BMP of more than {MOST_IN_PYTHON} pixels")


def refuse_ppm(content: bytes) -> None:
    """Text, odd ranges and long comments are read in Python."""
    if len(content) > MOST_IN_PYTHON and not QUICK_PPM.match(content[:1000]):
        raise CostlyError(
            f"a PPM of more than {MOST_IN_PYTHON} bytes that are text, or of other depths than 8 and 16 bits"
        )


def refuse_tiff(content: bytes) -> None:
    """Of its first directory, which is the one that is read."""
    order = "<" if content.startswith(b"II") else ">"
    is_big = content[2:4] in {b"+\0", b"\0+"}
    counted, entry, first = ("Q", "HHQ8x", 8) if is_big else ("H", "HHL4x", 4)
    try:
        (at,) = struct.unpack_from(f"{order}{'Q' if is_big else 'L'}", content, first)
        (entries,) = struct.unpack_from(f"{order}{counted}", content, at)
        at += struct.calcsize(f"{order}{counted}")
        for place in range(at, at + min(entries, 65_535) * (size := struct.calcsize(f"{order}{entry}")), size):
            tag, _, count = struct.unpack_from(f"{order}{entry}", content, place)
            if tag in STRIPS and count > MOST_STEPS:
                raise CostlyError(f"a TIFF of {count} strips or tiles; up to {MOST_STEPS} are read")
    except struct.error:  # it ends there: Pillow says so
        return


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
    while at < len(content) and content[at + 4 : at + 8] != b"IEND":
        yield at
        at += 12 + int.from_bytes(content[at : at + 4])  # length, name, data and checksum


def gif_steps(content: bytes) -> Iterator[int]:
    """Blocks, and the pieces that they come in: each with its length, one of none is the last."""
    flags = content[10] if len(content) > 10 else 0
    at = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
    while at + 1 < len(content):
        yield at
        if content[at] != 0x21:  # an image, the end, or nothing
            if content[at] in b",;":
                return
            at += 1
            continue
        label, at = content[at + 1], at + 2
        apart = 0 if label == 0xFE else 1  # pieces that are not looked at for an end: an extension's first
        apart += label == 0xFF and content[at + 1 : at + 12] == b"NETSCAPE2.0"
        while at < len(content):
            yield at
            length = content[at]
            at += 1 + length
            apart -= 1
            if not length and apart < 0:
                break


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
    b"\x89PNG\r\n\x1a\n": refuse_png,
    b"GIF8": lambda content: refuse_steps(gif_steps(content)),
    b"BM": refuse_bmp,
    **dict.fromkeys((b"II", b"MM"), refuse_tiff),
    b"P": refuse_ppm,
}
