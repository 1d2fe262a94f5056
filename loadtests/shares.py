"""One schedule sent by several processes: arrival j is the business of worker j mod n."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.schedule import read_schedule


@dataclass(frozen=True, slots=True)
class Share:
    """Worker `index` of `count`; the schedule ends after `seconds`, if not before."""

    schedule: str = ""
    seed: int = 0
    seconds: float = float("inf")
    index: int = 0
    count: int = 1

    def due(self) -> Iterator[tuple[int, float]]:
        """Numbers of arrivals in the whole schedule, and seconds from the start when they are due."""
        for number, due_s in enumerate(read_schedule(self.schedule).endless(self.seed)):
            if due_s >= self.seconds:
                return
            if number % self.count == self.index:
                yield number, due_s

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
