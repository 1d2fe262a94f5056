"""Batches made of the requests that wait.

Whatever waits when the runner is free goes to it together, up to its largest batch: alone where nothing else waits, so
that an idle service adds nothing, and in the fuller batches the busier it is. Images are decoded before they join, so
that what is no image never harms its neighbours.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from threading import Condition, Thread
from typing import Any

from export.buckets import bucket_for, buckets_of
from serving.runners.base import Runner
from serving.threads import Threads
from serving.together import SMOOTHING, Decoded, Together, refuse_late
from serving.work import Inferred, Work, finish


class Batches(Together):
    """A lane for one variant. `dispatchers` batches run at once: one on a GPU, one a core on a CPU."""

    def __init__(self, runner: Runner, threads: Threads, most: int, variant: str, dispatchers: int = 1) -> None:
        super().__init__(runner, variant)
        self.decoders = threads
        self.width = self.most = most
        self.buckets = buckets_of(most)
        self.queue: deque[Decoded] = deque()
        self.changed = Condition()
        self.closing = False
        self.expected_s: dict[int, float] = {}
        self.dispatchers = [Thread(target=self.dispatch, name="batches", daemon=True) for _ in range(dispatchers)]
        for thread in self.dispatchers:
            thread.start()

    def submit(self, work: Work[Any]) -> None:
        self.decoders.submit(lambda: self.join(work))

    def join(self, work: Work[Any]) -> None:
        """Decode it and queue it."""
        pixels = work.decoded()
        if pixels is not None:
            with self.changed:
                self.queue.append((work, pixels))
                self.changed.notify()

    def dispatch(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queue or self.closing)
                if not self.queue:
                    return
                batch = self.next_batch()
            if batch:
                self.run(batch, self.runner)

    def next_batch(self) -> list[Decoded]:
        """What goes to the runner now, oldest first. It grows while all that are in it will still be in time."""
        now = time.perf_counter()
        batch: list[Decoded] = []
        images, soonest = 0, float("inf")
        while self.queue:
            work, pixels = self.queue[0]
            if not work.still_wanted():
                self.queue.popleft()
                continue
            if now + self.expected(len(pixels)) > work.deadline:
                self.queue.popleft()
                self.doubt(len(pixels))
                refuse_late(work)
                continue
            grown = images + len(pixels)
            late = now + self.expected(grown) > min(soonest, work.deadline)
            if batch and (grown > self.most or late):
                break
            batch.append(self.queue.popleft())
            images, soonest = grown, min(soonest, work.deadline)
        return batch

    def expected(self, images: int) -> float:
        """Seconds that it will take at least: what no larger batches took lately, 0 before any has run."""
        most = self.bucket(images)
        return max((seconds for size, seconds in list(self.expected_s.items()) if size <= most), default=0.0)

    def doubt(self, images: int) -> None:
        """An expectation that turns requests away is not corrected by any that run: so it shrinks."""
        for size in list(self.expected_s):  # another dispatcher may learn of a size meanwhile
            if size <= self.bucket(images):
                self.expected_s[size] *= 1 - SMOOTHING

    def bucket(self, images: int) -> int:
        """The batch that an engine has a graph for, and that holds so many."""
        return bucket_for(min(images, self.most), self.buckets)

    def took(self, images: int, seconds: float) -> None:
        size = self.bucket(images)
        last = self.expected_s.get(size, seconds)
        self.expected_s[size] = last + SMOOTHING * (seconds - last)

    def finish(self, inferred: Sequence[Inferred]) -> None:
        self.decoders.submit(lambda: finish(inferred))

    def waiting(self) -> int:
        return len(self.queue)

    def close(self) -> None:
        """What waits for the runner is still run; nothing may be submitted any more."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for thread in self.dispatchers:
            thread.join()
