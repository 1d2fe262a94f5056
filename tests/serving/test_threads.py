"""Threads do all that they are given, and who was at it last is asked first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from threading import Event, current_thread

import pytest

from serving.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    opened = Threads(2, "worker")
    yield opened
    opened.close()


def all_rest(threads: Threads) -> None:
    for _ in range(10_000):
        if len(threads.idle) == len(threads.threads):
            return
        time.sleep(0.001)
    pytest.fail("a thread is still at it")


def test_who_was_at_it_last_is_asked_first(threads: Threads) -> None:
    asked: list[str] = []
    for _ in range(6):
        all_rest(threads)
        threads.submit(lambda: asked.append(current_thread().name))
    all_rest(threads)
    assert len(asked) == 6
    assert len(set(asked)) == 1


def test_a_thread_knows_whether_it_is_alone(threads: Threads) -> None:
    found, alone, let_go = list[bool](), Event(), Event()

    def look() -> None:
        found.append(threads.others_rest())
        alone.set()

    all_rest(threads)
    threads.submit(look)
    assert alone.wait(10)
    all_rest(threads)
    threads.submit(lambda: let_go.wait(10))
    alone.clear()
    threads.submit(look)
    assert alone.wait(10)
    let_go.set()
    assert found == [True, False]


def test_a_second_thread_helps_while_the_first_is_at_it(threads: Threads) -> None:
    met, other_met = Event(), Event()

    def meet(mine: Event, other: Event) -> None:
        mine.set()
        assert other.wait(10)

    all_rest(threads)
    threads.submit(lambda: meet(met, other_met))
    threads.submit(lambda: meet(other_met, met))
    assert met.wait(10)
    assert other_met.wait(10)


def test_an_event_loop_wakes_a_thread_at_the_end_of_its_turn(threads: Threads) -> None:
    """Until then the thread could but wait for Python's lock."""

    async def scenario() -> None:
        done = Event()
        threads.submit(done.set, asyncio.get_running_loop())
        assert len(threads.idle) == 2
        assert not threads.rest()
        await asyncio.sleep(0)
        assert done.wait(10)

    all_rest(threads)
    asyncio.run(scenario())


def test_nobody_is_woken_for_what_another_has_done(threads: Threads) -> None:
    all_rest(threads)
    idle = list(threads.idle)
    threads.wake()
    assert threads.idle == idle


def test_what_finds_no_idle_thread_is_done_in_order_and_before_closing_ends() -> None:
    threads, let_go, done = Threads(1, "worker"), Event(), list[int]()
    threads.submit(let_go.wait)
    for number in range(5):
        threads.submit(lambda number=number: done.append(number))
    assert threads.waiting() >= 5
    let_go.set()
    threads.close()
    assert done == [0, 1, 2, 3, 4]
    assert threads.waiting() == 0
