"""One request's way through a variant: done by threads, awaited by the event loop.

    read (decode) --> infer --> write (answer)

An object of its own rather than two futures: the standard executor's, wrapped in asyncio's, takes 31 us of CPU where
this takes 20, and can only be dropped before it has begun.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.answers import Timings

Result = TypeVar("Result")


@dataclass(slots=True)
class Moments:
    """`perf_counter` readings, in seconds, of what happened to a request; its body came from `called` to `arrived`."""

    called: float
    arrived: float
    begun: float = 0.0
    read: float = 0.0
    taken: float = 0.0  # by the runner: at once, or with the batch
    inferred: float = 0.0

    @property
    def queue_s(self) -> float:
        """For a thread, and for the runner."""
        return self.begun - self.arrived + self.taken - self.read

    @property
    def decode_s(self) -> float:
        return self.read - self.begun

    @property
    def infer_s(self) -> float:
        return self.inferred - self.taken

    def timings_ms(self) -> Timings:
        return {
            "queue": round(self.queue_s * 1e3, 3),
            "decode": round(self.decode_s * 1e3, 3),
            "infer": round(self.infer_s * 1e3, 3),
        }

    @property
    def receive_s(self) -> float:
        return self.arrived - self.called

    def stages_s(self, now: float, inference: str = "infer") -> tuple[tuple[str, float], ...]:
        """What each stage took since the body arrived, `answer` up to now; `inference` is the name of that one."""
        return (
            ("queue", self.queue_s),
            ("decode", self.decode_s),
            (inference, self.infer_s),
            ("answer", now - self.inferred),
        )


class Work(Generic[Result]):
    """Made on the event loop, which awaits `answer`. Who cancels that has it dropped wherever it still waits."""

    def __init__(
        self,
        read: Callable[[], NDArray[np.uint8]],
        write: Callable[[NDArray[np.float32], Moments], Result],
        moments: Moments,
        deadline: float,
    ) -> None:
        self.read, self.write = read, write
        self.moments, self.deadline = moments, deadline
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Result] = self.loop.create_future()
        self.images: NDArray[np.uint8] | None = None
        self.begun = self.released = False
        self.here = False  # on the event loop, which need not be told of its end
        self.on_release: Callable[[], None] = nothing

    # What the event loop calls.

    def leave(self) -> None:
        """Nobody waits any more. What a thread has in hand is released by it; what has not begun, here."""
        self.answer.cancel()
        if not self.begun:
            self.release()

    def deliver(self, result: Any, error: BaseException | None) -> None:
        if not self.answer.done():
            if error is None:
                self.answer.set_result(result)
            else:
                self.answer.set_exception(error)
        self.release()

    def release(self) -> None:
        """Once: also what it holds goes, for a queue may hold on to itself."""
        if not self.released:
            self.released = True
            self.read = self.write = gone
            self.on_release()

    # What threads call. A cancellation that comes between a look and what follows it costs an answer nobody reads.

    def begin(self) -> bool:
        """False where nobody waits for it any more."""
        if self.released or self.answer.done():
            return False
        self.begun = True
        self.moments.begun = time.perf_counter()
        return True

    def still_wanted(self) -> bool:
        """Releases it where it is not."""
        if self.answer.done():
            self.end(None, None)
            return False
        return True

    def decoded(self) -> NDArray[np.uint8] | None:
        """Begin it and read its pixels; None where nobody waits for them, or they cannot be read."""
        if not self.begin():
            return None
        try:
            self.images = self.read()
        except Exception as error:  # noqa: BLE001  whoever awaits it has to hear of it
            self.end(None, error)
            return None
        self.moments.read = time.perf_counter()
        return self.images

    def outcome(self, logits: NDArray[np.float32]) -> tuple[Result | None, Exception | None]:
        """One of both."""
        try:
            return self.write(logits, self.moments), None
        except Exception as error:  # noqa: BLE001  whoever awaits it has to hear of it
            return None, error

    def end(self, result: Any, error: BaseException | None) -> None:
        send([(self, result, error)])


Inferred = tuple[Work[Any], NDArray[np.float32]]
Outcome = tuple[Work[Any], Any, BaseException | None]


def finish(inferred: Sequence[Inferred]) -> None:
    """What was inferred together is delivered together: a message wakes the event loop, and each wakes it again."""
    send([(work, *work.outcome(logits)) for work, logits in inferred])


def send(outcomes: Sequence[Outcome]) -> None:
    if outcomes[0][0].here:
        deliver(outcomes)
        return
    with suppress(RuntimeError):  # the loop has closed: nobody waits
        outcomes[0][0].loop.call_soon_threadsafe(deliver, outcomes)


def deliver(outcomes: Sequence[Outcome]) -> None:
    for work, result, error in outcomes:
        work.deliver(result, error)


def nothing() -> None:
    pass


def gone(*_: Any) -> Any:
    """Stands where released work had something to do."""
    raise RuntimeError("this work was released")


class Lane(Protocol):
    """How a variant's work gets done. `width` images are worth having in it at once."""

    width: int

    def admit(self, deadline: float) -> None:
        """Raises RequestError 429 where what comes now would not be answered by then."""
        ...

    def submit(self, work: Work[Any]) -> None: ...
    def run_here(self, work: Work[Any]) -> bool:
        """Whether it has been run at once, on the event loop, for a client that is alone."""
        ...

    def waiting(self) -> int:
        """For the runner; those that wait for a thread are counted there."""
        ...

    def close(self) -> None: ...
