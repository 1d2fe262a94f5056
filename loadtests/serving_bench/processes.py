"""What a server costs: the CPU time and memory of its process and of all that descend from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

IDLE_WINDOW_S = 0.2
IDLE_SHARE = 0.1  # of one core; the kernel counts in steps of 10 ms
IDLE_WITHIN_S = 60.0


class Tree:
    """The processes there are when it is made, which a ready server does not change."""

    def __init__(self, pid: int) -> None:
        parent = psutil.Process(pid)
        self.processes = [parent, *parent.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time since they began."""
        seconds = 0.0
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds

    def rss_bytes(self) -> int:
        """Memory that several processes share counts in each."""
        total = 0
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


def idle_shares(trees: Sequence[Tree], window_s: float) -> list[float]:
    """What each takes of one core while nobody asks anything of them."""
    before, begun = [tree.cpu_s() for tree in trees], time.perf_counter()
    time.sleep(window_s)
    seconds = time.perf_counter() - begun
    return [(tree.cpu_s() - each) / seconds for tree, each in zip(trees, before, strict=True)]


def settle(trees: Sequence[Tree]) -> float:
    """Wait until they are idle: a server may go on with requests whose client has left. Returns their last share."""
    begun = time.perf_counter()
    while (share := sum(idle_shares(trees, IDLE_WINDOW_S))) > IDLE_SHARE:
        if time.perf_counter() - begun > IDLE_WITHIN_S:
            break
    return share
