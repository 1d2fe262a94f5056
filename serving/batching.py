"""Batches made of the requests that wait.

Whatever waits when the runner is free goes to it together, up to its largest batch: alone where nothing else waits, so
that an idle service adds nothing, and in the fuller batches the busier it is. Images are decoded before they join, so
that what is no image never harms its neighbours.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from threading import Condition, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.engine_session import buckets_of
from serving.errors import too_late
from serving.metrics import metrics
from serving.runners.base import Runner
from serving.work import Threads, Work

logger = logging.getLogger("bentoml.serve")

SMOOTHING = 0.2  # of the expected durations: the share that the newest one has
Waiting = tuple[Work[Any], NDArray[np.uint8]]


class Batches:
    """A lane for one variant. `dispatchers` batches run at once: one on a GPU, one a core on a CPU."""

    def __init__(self, runner: Runner, threads: Threads, most: int, variant: str, dispatchers: int = 1) -> None:
        self.runner, self.decoders = runner, threads
        self.width = self.most = most
        self.buckets = buckets_of(most)
        self.variant = variant
        self.queue: deque[Waiting] = deque()
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
                self.run(batch)

    def next_batch(self) -> list[Waiting]:
        """What goes to the runner now, oldest first. It grows while all that are in it will still be in time."""
        now = time.perf_counter()
        batch: list[Waiting] = []
        images, soonest = 0, float("inf")
        while self.queue:
            work, pixels = self.queue[0]
            if not work.still_wanted():
                self.queue.popleft()
                continue
            if now + self.expected(len(pixels)) > work.deadline:
                self.queue.popleft()
                self.doubt(len(pixels))
                work.end(None, too_late("inference would have ended after the deadline, and was not begun"))
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
        return max((seconds for size, seconds in self.expected_s.items() if size <= most), default=0.0)

    def doubt(self, images: int) -> None:
        """An expectation that turns requests away is not corrected by any that run: so it shrinks."""
        for size in self.expected_s:
            if size <= self.bucket(images):
                self.expected_s[size] *= 1 - SMOOTHING

    def bucket(self, images: int) -> int:
        """The batch that an engine has a graph for, and that holds so many."""
        return next((size for size in self.buckets if size >= images), self.most)

    def run(self, batch: list[Waiting]) -> None:
        """All together; where that fails, each alone, so that it fails only who made it."""
        try:
            self.infer(batch)
        except Exception as error:  # noqa: BLE001  whoever awaits it has to hear of it
            if len(batch) == 1:
                batch[0][0].end(None, error)
                return
            logger.warning("a batch of %d requests failed (%s); each is tried alone", len(batch), error)
            for alone in batch:
                self.run([alone])

    def infer(self, batch: list[Waiting]) -> None:
        taken = time.perf_counter()
        pixels = batch[0][1] if len(batch) == 1 else np.concatenate([pixels for _, pixels in batch])
        logits = self.runner.infer(pixels)
        inferred = time.perf_counter()
        size = self.bucket(len(pixels))
        last = self.expected_s.get(size, inferred - taken)
        self.expected_s[size] = last + SMOOTHING * (inferred - taken - last)
        metrics().batch.labels(self.variant).observe(len(pixels))
        for work, rows in zip([work for work, _ in batch], split(logits, batch), strict=True):
            work.moments.taken, work.moments.inferred = taken, inferred
            self.decoders.submit(lambda work=work, rows=rows: work.finish(rows))  # type: ignore[misc]

    def waiting(self) -> int:
        return len(self.queue)

    def close(self) -> None:
        """What waits is still run; nothing may be submitted any more."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for thread in self.dispatchers:
            thread.join()


def split(logits: NDArray[np.float32], batch: list[Waiting]) -> Iterator[NDArray[np.float32]]:
    first = 0
    for _, pixels in batch:
        yield logits[first : first + len(pixels)]
        first += len(pixels)
