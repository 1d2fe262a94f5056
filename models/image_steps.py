"""Where a decoder stops in the bytes of an image before it comes to the pixels: markers, chunks, blocks, directories.

The walks are Pillow's own, from `PIL/*ImagePlugin.py`: what it would take a step for is a step here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from PIL.JpegImagePlugin import MARKER

SCAN = b"\xff\xda"  # of JPEG
MOST_STEPS = 10_000  # before the pixels: markers, chunks, blocks, strips, and bytes that are skipped one by one
MOST_DIRECTORIES = 16
TIFF_BEGINS = (b"II*\0", b"MM\0*")
DIRECTORIES = {34665, 34853, 40965}  # TIFF's tags of further ones that Pillow reads: Exif, GPS, interoperability
WITHOUT_LENGTH = {mark & 0xFF for mark, (_, _, handler) in MARKER.items() if handler is None}  # of JPEG's, to Pillow

Place = TypeVar("Place")
Entry = tuple[int, int, int, int]  # tag, type, count, and the value or where it is


class CostlyError(ValueError):
    """It would take too long."""


def entries_of(content: bytes, begin: int) -> Iterator[Entry]:
    """Of the first directory of a TIFF that begins there, and of those that this refers to."""
    is_big = content[begin + 2 : begin + 4] in {b"+\0", b"\0+"}
    shape = Shape("<" if content[begin : begin + 2] == b"II" else ">", is_big)
    seen: set[int] = set()
    try:
        pending = [shape.offset(content, begin + (8 if is_big else 4))]
        while pending:
            at = pending.pop()
            if at in seen:
                continue
            if len(seen) == MOST_DIRECTORIES:
                raise CostlyError(f"more than {MOST_DIRECTORIES} directories in TIFF or Exif")
            seen.add(at)
            for entry in shape.entries(content, begin + at):
                yield entry
                if entry[0] in DIRECTORIES:
                    pending.append(entry[3])
    except (struct.error, OverflowError):  # it ends there: Pillow says so
        return


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a TIFF's directories: the order of bytes, and whether it is a BigTIFF."""

    order: str
    is_big: bool

    def offset(self, content: bytes, at: int) -> int:
        return int(struct.unpack_from(f"{self.order}{'Q' if self.is_big else 'L'}", content, at)[0])

    def entries(self, content: bytes, at: int) -> Iterator[Entry]:
        """Of one directory."""
        number, entry = ("Q", "HHQQ") if self.is_big else ("H", "HHLL")
        (entries,) = struct.unpack_from(self.order + number, content, at)
        at += struct.calcsize(self.order + number)
        size = struct.calcsize(self.order + entry)
        for place in range(at, at + entries * size, size):
            yield struct.unpack_from(self.order + entry, content, place)


def counted(places: Iterator[Place]) -> Iterator[Place]:
    """Raises CostlyError where there are too many."""
    for step, place in enumerate(places):
        if step == MOST_STEPS:
            raise CostlyError(f"more than {MOST_STEPS} segments")
        yield place


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


def places_of(content: bytes) -> Iterator[int]:
    """Where a TIFF, as Exif is one, may begin."""
    for begins in TIFF_BEGINS:
        at = content.find(begins)
        while at >= 0:
            yield at
            at = content.find(begins, at + 1)


def boxes(content: bytes) -> Iterator[tuple[int, int]]:
    """Where each of a file's boxes is, and its size."""
    at = 0
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4])
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16])
        size = min(size or len(content), len(content) - at)
        yield at, size
        at += max(8, size)


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
