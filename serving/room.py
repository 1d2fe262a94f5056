"""Room for the bodies of requests: how many bytes of them a worker holds at once, those on their way included.

Limited by number alone, as many bodies as are let in would fill any memory, each of the size that one may have.
"""

from __future__ import annotations

from serving.errors import overloaded

RESERVED = 1 / 16  # for bodies that come in one piece: started ones, however large, do not keep them out


class Room:
    """Of one worker, asked on its event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self.most_in_pieces = most - int(most * RESERVED)

    def take(self, size: int, *, is_whole: bool) -> None:
        """Raises RequestError 429 where they do not fit."""
        most = self.most if is_whole else self.most_in_pieces
        if self.held + size > most:
            raise overloaded(f"{self.held} bytes of bodies are held", f"up to {most} at once")
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size
