"""What waits, shared out among the threads: on a CPU the one that decodes images also infers them, several at once.

A thread that becomes free takes its share of what waits, so that the others have theirs, and nobody waits for company.
Where an inference is short this saves what comes with each: the call, the turn at Python's lock, the event loop's
waking up. Where it is long, a batch would only keep the first in it waiting; but who is alone then has the cores of all
threads for it, which would idle otherwise (`serving/spread.py`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from threading import Condition, Lock
from typing import Any

from serving.errors import overloaded
from serving.runners.base import Inference
from serving.threads import Threads
from serving.together import SMOOTHING, Decoded, Together, refuse_late
from serving.work import Work

MOST = 4  # images; eight gain no more with a ResNet-20 (docs/decisions.md)
WITHIN_S = 0.005  # that a batch may take
CONFIDENT = 0.9  # of the time that a request has: what it may be expected to need


class Shares(Together):
    """A lane. No more than `most` images are inferred at once, unless one request has more.

    `spread` infers on all cores, for requests that find all other threads resting.
    """

    def __init__(
        self, runner: Inference, threads: Threads, most: int = 1, counted_as: str | None = None,
        spread: Inference | None = None, expected_s: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(runner, counted_as)
        self.threads, self.most, self.spread = threads, most, spread
        self.number = len(threads.threads)
        self.width = self.number * min(most, 2)  # a share in hand and one that waits, and room for others
        self.queue: deque[Work[Any]] = deque()
        self.lock = Lock()  # of all below
        self.idle = Condition(self.lock)
        self.called = 0  # threads that are at it, or will be: no more than there are
        self.coming = 0  # of those, the ones that have not begun
        self.expected_s = expected_s  # that a request keeps a thread, lately; 0 where nothing is known yet
        self.opened = self.closing = False
        threads.lanes.append(self)

    def admit(self, deadline: float) -> None:
        """Turned away at once is better than answered too late, and than the time that others lose by it.

        Who finds nobody waiting is let in, whatever is expected: from what runs the expectation is learned.
        """
        ahead = len(self.queue)
        if not ahead:
            return
        waiting_s = 0.0
        for lane in self.threads.lanes:  # in turns: of another's no more come before this one than of its own
            waiting_s += min(len(lane.queue), ahead) * lane.expected_s
        needed_s = waiting_s / self.number + 2 * self.expected_s  # what is ahead, what is in hand, and its own
        if needed_s > CONFIDENT * (deadline - time.perf_counter()):
            raise overloaded(f"{ahead} requests wait, {needed_s * 1e3:.0f} ms", "what can be answered in time")

    def submit(self, work: Work[Any]) -> None:
        with self.lock:
            self.queue.append(work)
            if self.called == self.number:
                return  # one of them will come to it
            self.called += 1
            self.coming += 1
        self.threads.submit(self.perform, work.loop)

    def run_here(self, work: Work[Any]) -> bool:
        """For the event loop: at once, where no thread has anything to do and inferences are short; False elsewhere."""
        if self.most == 1 or self.expected_s > WITHIN_S or self.called or not self.threads.rest():
            return False
        work.here = True
        self.queue.append(work)
        self.run_share(1)
        return True

    def perform(self) -> None:
        """One share after another; where other lanes wait for a thread, they have it in between."""
        while True:
            with self.lock:
                self.coming -= 1
                share = min(self.most, math.ceil(len(self.queue) / self.number))
            if share:
                self.run_share(share)
            with self.lock:
                if not self.queue:
                    self.called -= 1
                    if self.closing and not self.called:
                        self.idle.notify_all()
                    return
                self.coming += 1
            if self.threads.waiting():
                self.threads.submit(self.perform)
                return

    def run_share(self, share: int) -> None:
        begun = time.perf_counter()
        batch: list[Decoded] = []
        images = done = 0
        late = False
        expected_s = self.expected_s if self.spread_now() is None else 0.0  # who is alone takes nobody's time
        while images < share and (work := self.next()) is not None:
            if time.perf_counter() + expected_s > work.deadline and work.still_wanted():
                refuse_late(work)
                late = expected_s > 0
                continue
            if (pixels := work.decoded()) is None:
                continue
            if batch and images + len(pixels) > self.most:
                self.run(batch, self.runner)
                batch, images = [], 0
            batch.append((work, pixels))
            images += len(pixels)
            done += 1
            if work.moments.read - batch[0][0].moments.read > WITHIN_S:
                break  # the first has waited for its neighbours long enough
        spread = self.spread_now()
        if batch:
            self.run(batch, spread or self.runner)
        if done and spread is None:  # what is spread says nothing of how long others keep a thread
            self.took_each((time.perf_counter() - begun) / done)
        elif late and not done:
            self.expected_s *= 1 - SMOOTHING  # what is never run corrects no expectation

    def spread_now(self) -> Inference | None:
        """What infers on all cores, where nobody else has anything to do on them."""
        return self.spread if self.spread is not None and self.threads.others_rest() else None

    def took_each(self, seconds: float) -> None:
        if self.opened:  # the first may have opened a session
            self.expected_s += (SMOOTHING if self.expected_s else 1.0) * (seconds - self.expected_s)
        self.opened = True

    def next(self) -> Work[Any] | None:
        """None where others have taken what there was."""
        try:
            return self.queue.popleft()
        except IndexError:
            return None

    def waiting(self) -> int:
        return max(0, len(self.queue) - self.coming)  # who is coming is counted where threads are

    def close(self) -> None:
        """What waits is still run; nothing may be submitted any more, and the threads are closed later."""
        self.threads.wake_all()
        with self.idle:
            self.closing = True
            self.idle.wait_for(lambda: not self.called)


def worth_a_batch(seconds: float, largest: int) -> int:
    """Images to infer at once, 1 to `MOST`: as many as take no longer than `WITHIN_S`, where one takes `seconds`."""
    return max(1, min(MOST, largest, int(WITHIN_S / seconds)))
