"""Copies of requests, classified by another variant: for its agreement with the primary, never for an answer.

One thread of the lowest priority takes what it can; when more comes than it can take, copies are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Thread, get_native_id

from serving.metrics import metrics

logger = logging.getLogger("bentoml.serve")

MOST_WAITING = 32
ENDS_WITHIN_S = 5.0  # a shadow that hangs does not keep the worker
LOWEST_PRIORITY = 19
Copy = tuple[str, str, int, Callable[[], int]]  # primary, shadow, the primary's best class, what finds the shadow's


class Shadow:
    """Does nothing until the first copy comes."""

    def __init__(self) -> None:
        self.waiting: Queue[Copy | None] = Queue(MOST_WAITING)
        self.thread: Thread | None = None

    def submit(self, copy: Copy) -> None:
        try:
            self.thread = self.thread or started(self.run)
            self.waiting.put_nowait(copy)
        except (Full, RuntimeError):  # RuntimeError: the system has no thread to give; it may for the next
            count(copy, "dropped")

    def run(self) -> None:
        with suppress(OSError):  # which a sandbox may forbid
            if sys.platform == "linux":  # where threads have priorities of their own
                os.setpriority(os.PRIO_PROCESS, get_native_id(), LOWEST_PRIORITY)
        failed = 0
        while (copy := self.waiting.get()) is not None:
            primary, shadow, best, classify = copy
            try:
                count(copy, "agreed" if classify() == best else "differed")
            except Exception as error:  # noqa: BLE001  a shadow's failure is a figure
                count(copy, "failed")
                failed += 1
                if failed & (failed - 1) == 0:  # the first, the second, the fourth, and so on
                    logger.warning("%s as shadow of %s failed, %d so far: %s", shadow, primary, failed, error)

    def close(self) -> None:
        if self.thread is None:
            return
        with suppress(Empty):
            while copy := self.waiting.get_nowait():
                count(copy, "dropped")
        self.waiting.put(None)
        self.thread.join(ENDS_WITHIN_S)


def started(run: Callable[[], None]) -> Thread:
    thread = Thread(target=run, name="shadow", daemon=True)
    thread.start()
    return thread


def count(copy: Copy, result: str) -> None:
    primary, shadow, *_ = copy
    metrics().shadow.labels(primary, shadow, result).inc()
