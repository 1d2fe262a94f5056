"""One lane's share of a round, and the log that keeps every one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.serving_bench.lanes import Opened
from loadtests.serving_bench.plan import Cell, Lane
from loadtests.serving_bench.processes import settle


@dataclass(frozen=True, slots=True)
class Turn:
    """`cpu_s` is the server's, `others_cpu_s` that of all the idle servers, `idle_share` what all of them took of a
    core just before."""

    cell: str
    round: int
    lane: Lane
    requests: int
    failures: dict[str, int]
    seconds: float
    p50_us: float
    p99_us: float
    cpu_s: float
    others_cpu_s: float
    rss_mb: float
    idle_share: float
    start: int = 0  # which of the server's processes, where it was started several times

    @property
    def throughput_rps(self) -> float:
        """Of answers that are no errors."""
        return (self.requests - self.failures.get("status", 0)) / self.seconds

    @property
    def cpu_us(self) -> float:
        """A request."""
        return self.cpu_s / self.requests * 1e6 if self.requests else float("nan")


def run_turn(
    cell: Cell, number: int, lane: Lane, opened: Mapping[Lane, Opened], jpegs: Sequence[Path], seconds: int, start: int
) -> Turn:
    mine = opened[lane]
    others = {id(each.tree): each.tree for each in opened.values() if each.tree is not mine.tree}.values()
    idle = settle([mine.tree, *others])
    before, before_others = mine.tree.cpu_s(), sum(tree.cpu_s() for tree in others)
    load = mine.load(jpegs, seconds, cell.concurrency)
    after, after_others = mine.tree.cpu_s(), sum(tree.cpu_s() for tree in others)
    return Turn(
        cell=str(cell), round=number, lane=lane, requests=load.requests, failures=load.failures, seconds=load.seconds,
        p50_us=load.p50_us, p99_us=load.p99_us, cpu_s=after - before, others_cpu_s=after_others - before_others,
        rss_mb=mine.tree.rss_bytes() / 1e6, idle_share=idle, start=start,
    )  # fmt: skip


def append(log: Path, turn: Turn) -> None:
    with log.open("a") as file:
        file.write(json.dumps(asdict(turn)) + "\n")


def read(log: Path) -> Iterator[Turn]:
    """A last line that was cut off is left out, and cut off for good: the next one begins anew."""
    if not log.exists():
        return
    content = log.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        log.write_bytes(whole)
    for line in whole.splitlines():
        entry = json.loads(line)
        yield Turn(**{**entry, "lane": Lane(entry["lane"])})
