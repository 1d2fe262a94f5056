"""What is measured: cells of network, precision and concurrency, and in each the lanes, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

CONCURRENCIES = (1, 16, 64)
PRECISIONS = ("fp32", "int8")


class Lane(StrEnum):
    """In the order of the first round.

    `fastapi+decoder` has our decoder in place of Pillow's, so that it differs from ours in the server alone; peers as
    people write them have Pillow's. `fastapi+spread` and `ceiling+spread` leave ONNX Runtime its default, which spreads
    each inference over all cores; the others give each one thread. `ours-again` is the same server: what the two differ
    by, the run can not tell from nothing.
    """

    OURS = "ours"
    STARLETTE = "starlette"
    FASTAPI = "fastapi"
    FASTAPI_SPREAD = "fastapi+spread"
    FASTAPI_DECODER = "fastapi+decoder"
    OURS_AGAIN = "ours-again"
    LITSERVE = "litserve"
    BENTOML = "bentoml"
    CEILING = "ceiling"
    CEILING_SPREAD = "ceiling+spread"


PEERS = (Lane.FASTAPI, Lane.FASTAPI_SPREAD, Lane.LITSERVE, Lane.BENTOML)
CEILINGS = (Lane.CEILING, Lane.CEILING_SPREAD)
SPREAD = (Lane.FASTAPI_SPREAD, Lane.CEILING_SPREAD)


class PlanError(ValueError):
    """There is no such cell or lane."""


@dataclass(frozen=True, slots=True)
class Network:
    """`turn_s` is long enough for every connection of 16 to be answered several times by two cores.

    wrk takes whole seconds.
    """

    variant: str
    trained: bool
    jpeg_size: tuple[int, int]
    jpeg_quality: int
    turn_s: int


NETWORKS = {
    "resnet20": Network("resnet20-preact", trained=True, jpeg_size=(32, 32), jpeg_quality=99, turn_s=2),  # 3 KB
    "resnet50": Network("resnet50-preact", trained=False, jpeg_size=(500, 375), jpeg_quality=90, turn_s=6),  # 60 KB
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Written `resnet20:fp32:16`."""

    network: str
    precision: str
    concurrency: int

    def __str__(self) -> str:
        return f"{self.network}:{self.precision}:{self.concurrency}"

    @property
    def turn_s(self) -> int:
        """More connections wait longer for their first answer."""
        return NETWORKS[self.network].turn_s * (2 if self.concurrency > 16 else 1)


ALL_CELLS = tuple(
    Cell(network, precision, concurrency)
    for network in NETWORKS
    for precision in PRECISIONS
    for concurrency in CONCURRENCIES
)


def read_cells(text: str) -> tuple[Cell, ...]:
    return tuple(read_cell(part) for part in text.split(","))


def read_cell(text: str) -> Cell:
    match text.split(":"):
        case [network, precision, concurrency] if network in NETWORKS and precision in PRECISIONS:
            if concurrency.isdecimal() and int(concurrency):
                return Cell(network, precision, int(concurrency))
    networks, precisions = "|".join(NETWORKS), "|".join(PRECISIONS)
    raise PlanError(f"cell {text!r}: expected {networks}:{precisions}:CONCURRENCY, such as resnet20:fp32:16")


def read_lanes(text: str) -> tuple[Lane, ...]:
    """In our order, whatever theirs; `ours` is what all others are compared with."""
    unknown = sorted(set(text.split(",")) - set(Lane))
    if unknown:
        raise PlanError(f"no lane {', '.join(unknown)}; known: {', '.join(Lane)}")
    asked = {Lane.OURS, *text.split(",")}
    return tuple(lane for lane in Lane if lane in asked)


def start_of(number: int, rounds: int, starts: int) -> int:
    """Servers are started several times in a run; in which of those a round is."""
    return number * starts // rounds


def turns_of(rounds: int, lanes: Sequence[Lane]) -> Iterator[tuple[int, Lane]]:
    """Which lane comes first changes from round to round."""
    for number in range(rounds):
        for place in range(len(lanes)):
            yield number, lanes[(number + place) % len(lanes)]
