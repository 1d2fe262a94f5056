"""Room for the bodies of requests: how many bytes of them a worker holds at once, those on their way included.

Limited by number alone, as many bodies as are let in would fill any memory, each of the size that one may have.
"""

from __future__ import annotations

from serving.errors import overloaded


class Room:
    """Of one worker, asked on its event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def take(self, size: int) -> None:
        """Raises RequestError 429 where they do not fit."""
        if self.held + size > self.most:
            raise overloaded(f"{self.held} bytes of bodies are held", f"up to {self.most} at once")
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size
