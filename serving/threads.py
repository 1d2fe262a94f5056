"""Threads that do what is submitted. The one that has rested least is asked first.

Asked in turns, as a queue that all of them wait at would have it, threads take longer for what comes one by one: a
ResNet-50 in int8 1.02 to 1.04 times as long (docs/decisions.md), probably for cores and caches gone cold.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

Hand = SimpleQueue[None]  # what an idle thread waits at


class Threads:
    """They share a queue of things to do; closing waits until it is empty.

    Without a lock, which the event loop might have to wait for: who submits looks for the idle afterwards, who becomes
    idle looks for something to do afterwards, so that one of both sees the other.
    """

    def __init__(self, number: int, name: str) -> None:
        self.todo: deque[Callable[[], None]] = deque()
        self.idle: list[Hand] = []  # the last has rested least
        self.closing = False
        self.lanes: list[Any] = []  # those that share the threads out among what waits
        self.threads = [Thread(target=self.run, name=f"{name}-{index}", daemon=True) for index in range(number)]
        for thread in self.threads:
            thread.start()

    def submit(self, function: Callable[[], None], loop: AbstractEventLoop | None = None) -> None:
        """`loop`: who calls is on it, and has a thread woken at the end of its turn.

        Woken at once, the thread would wait for Python's lock until then, and be woken again for that.
        """
        self.todo.append(function)
        if loop is None:
            self.wake()
        else:
            loop.call_soon(self.wake)

    def wake(self) -> None:
        if not self.todo and not self.closing:
            return  # somebody who was awake has done it
        try:
            hand = self.idle.pop()
        except IndexError:  # none is idle: one of them will come to it
            return
        hand.put(None)

    def wake_all(self) -> None:
        """Before an event loop waits for what is submitted: what it meant to wake at the end of its turn included."""
        for _ in self.threads:
            self.wake()

    def waiting(self) -> int:
        return len(self.todo)

    def rest(self) -> bool:
        """Whether none has anything to do."""
        return len(self.idle) == len(self.threads) and not self.todo

    def others_rest(self) -> bool:
        """For one of them to ask, or for the event loop while all rest: whether nobody else has anything to do."""
        return len(self.idle) >= len(self.threads) - 1 and not self.todo

    def run(self) -> None:
        hand: Hand = SimpleQueue()
        while True:
            try:
                function = self.todo.popleft()
            except IndexError:
                if self.closing:
                    return
                self.sleep(hand)
                continue
            function()
            del function  # or what it holds would live until the next comes

    def sleep(self, hand: Hand) -> None:
        self.idle.append(hand)
        if self.todo or self.closing:
            with suppress(ValueError):  # it has been woken already
                self.idle.remove(hand)
                return
        hand.get()

    def close(self) -> None:
        self.closing = True
        self.wake_all()
        for thread in self.threads:
            thread.join()
