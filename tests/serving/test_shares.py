"""On a CPU a free thread takes its share of what waits, and no more than is worth it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import numpy as np
import pytest

from serving.errors import RequestError
from serving.shares import MOST, Shares, worth_a_batch
from serving.threads import Threads
from serving.work import Work
from tests.serving.test_batching import SICK, Summing, image, until, work

Lane = Callable[..., Shares]


@pytest.fixture
def runner() -> Summing:
    return Summing()


@pytest.fixture
def lane(runner: Summing) -> Iterator[Lane]:
    """For so many threads."""
    opened: list[Shares] = []

    def open_lane(threads: int, spread: Summing | None = None) -> Shares:
        opened.append(Shares(runner, Threads(threads, "classify"), MOST, "any", spread))
        return opened[-1]

    yield open_lane
    runner.let_go.release(1000)
    for each in opened:
        each.close()
        each.threads.close()


async def held(lane: Shares, runner: Summing) -> list[Work[list[float]]]:
    """Every thread has a request and keeps it."""
    first = [work(image(1)) for _ in range(lane.number)]
    for number, each in enumerate(first, 1):
        lane.submit(each)
        await until(lambda number=number: len(runner.batches) == number)
    return first


def submitted(lane: Shares, *pixels: np.ndarray) -> list[Work[list[float]]]:
    works = [work(each) for each in pixels]
    for each in works:
        lane.submit(each)
    return works


def test_who_comes_alone_is_inferred_alone_and_those_behind_go_together(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        shares = lane(1)
        (first,) = await held(shares, runner)
        rest = submitted(shares, *(image(value) for value in range(2, 8)))
        assert shares.waiting() == 6
        runner.let_go.release(3)
        assert await first.answer == [12.0]
        assert [await each.answer for each in rest] == [[value * 12.0] for value in range(2, 8)]
        assert runner.batches == [1, 4, 2]
        assert shares.waiting() == 0

    asyncio.run(scenario())


def test_a_thread_leaves_the_others_their_share(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        shares = lane(2)
        first = await held(shares, runner)
        rest = submitted(shares, *(image(value) for value in range(2, 8)))
        runner.let_go.release()
        await until(lambda: len(runner.batches) == 3)
        assert runner.batches == [1, 1, 3]
        assert shares.waiting() == 3
        runner.let_go.release(20)
        for each in (*first, *rest):
            await each.answer

    asyncio.run(scenario())


def test_who_has_many_images_has_the_runner_to_itself(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        shares = lane(1)
        (first,) = await held(shares, runner)
        rest = submitted(shares, image(2), image(3, 9), image(4))
        runner.let_go.release(20)
        assert await first.answer
        assert [len(await each.answer) for each in rest] == [1, 9, 1]
        assert runner.batches == [1, 1, 9, 1]

    asyncio.run(scenario())


def test_neither_what_cannot_be_read_nor_what_cannot_be_inferred_harms_its_neighbours(
    lane: Lane, runner: Summing
) -> None:
    def unreadable() -> Any:
        raise ValueError("no image")

    async def scenario() -> None:
        shares = lane(1)
        (first,) = await held(shares, runner)
        rest = [work(image(2)), work(image(0)), work(image(SICK)), work(image(4))]
        rest[1].read = unreadable
        for each in rest:
            shares.submit(each)
        runner.let_go.release(20)
        await first.answer
        found = await asyncio.gather(*(each.answer for each in rest), return_exceptions=True)
        assert (found[0], found[3]) == ([24.0], [48.0])
        assert [str(error) for error in found[1:3]] == ["no image", "a sick image"]
        assert runner.batches == [1, 3, 1, 1, 1]

    asyncio.run(scenario())


def test_who_gives_up_is_not_inferred(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        shares = lane(1)
        (first,) = await held(shares, runner)
        released = []
        quitter, patient = submitted(shares, image(2), image(3))
        quitter.on_release = lambda: released.append(True)
        quitter.leave()
        assert released == [True]
        runner.let_go.release(2)
        assert await first.answer
        assert await patient.answer == [36.0]
        assert runner.batches == [1, 1]

    asyncio.run(scenario())


def test_who_would_be_answered_too_late_is_turned_away_but_not_where_nobody_waits(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        shares = lane(2)
        first = await held(shares, runner)
        shares.expected_s = 1.0
        shares.admit(time.perf_counter() + 0.1)
        rest = submitted(shares, *(image(2) for _ in range(4)))  # (4 / 2 + 2) seconds, of which 0.9 are trusted
        shares.admit(time.perf_counter() + 5.0)
        with pytest.raises(RequestError) as caught:
            shares.admit(time.perf_counter() + 4.0)
        assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "1"})
        runner.let_go.release(100)
        for each in (*first, *rest):
            await each.answer

    asyncio.run(scenario())


def test_what_would_end_too_late_is_not_begun_and_such_a_judgement_wears_off(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        shares = lane(1)
        runner.let_go.release(100)
        shares.expected_s = 5.0
        hopeless = work(image(2), seconds=1.0)
        shares.submit(hopeless)
        with pytest.raises(RequestError) as caught:
            await hopeless.answer
        assert caught.value.status == 504
        assert runner.batches == []
        for _ in range(20):  # by then it expects less than a second
            await all_rest(shares)  # or it would be one share with the last
            again = work(image(2), seconds=1.0)
            shares.submit(again)
            await asyncio.wait([again.answer])
            if again.answer.exception() is None:
                return
        raise AssertionError("turned away for ever")

    asyncio.run(scenario())


def test_requests_are_expected_to_take_what_the_last_ones_did_but_the_first(lane: Lane) -> None:
    shares = lane(1)
    expected = []
    for seconds in (9.0, 1.0, 2.0):
        shares.took_each(seconds)
        expected.append(shares.expected_s)
    assert expected == pytest.approx([0.0, 1.0, 1.2])


def test_those_in_other_lanes_of_the_same_threads_are_ahead_as_well(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        one = lane(1)
        other = Shares(runner, one.threads, MOST)
        first = await held(one, runner)
        rest = [*submitted(one, image(2), image(2)), *submitted(other, image(2), image(2), image(2))]
        one.expected_s, other.expected_s = 1.0, 2.0
        one.admit(time.perf_counter() + 10.0)  # 2 + 2 of its own, 4 of the other
        with pytest.raises(RequestError):
            one.admit(time.perf_counter() + 8.5)
        one.expected_s = other.expected_s = 0.0
        runner.let_go.release(100)
        for each in (*first, *rest):
            await each.answer
        await asyncio.to_thread(other.close)

    asyncio.run(scenario())


def test_a_stall_does_not_make_it_forget_what_requests_take(lane: Lane, runner: Summing) -> None:
    """Those that gave up meanwhile say nothing about it."""

    async def scenario() -> None:
        shares = lane(1)
        first = await held(shares, runner)
        rest = submitted(shares, *(image(2) for _ in range(40)))
        shares.expected_s = 1.0
        for each in rest:
            each.deadline = 0.0
            each.leave()
        last = work(image(3))
        shares.submit(last)
        runner.let_go.release(100)
        await first[0].answer
        await last.answer
        assert shares.expected_s > 0.5

    asyncio.run(scenario())


def test_closing_waits_until_all_is_answered(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        shares = lane(2)
        first = await held(shares, runner)
        rest = submitted(shares, *(image(2) for _ in range(20)))
        closing = asyncio.ensure_future(asyncio.to_thread(shares.close))
        await asyncio.sleep(0.05)
        assert not closing.done()
        runner.let_go.release(100)
        await closing
        assert shares.waiting() == shares.called == shares.coming == 0
        for each in (*first, *rest):
            assert await each.answer

    asyncio.run(scenario())


def test_an_event_loop_that_closes_it_need_not_end_its_turn(runner: Summing) -> None:
    async def scenario() -> None:
        shares = Shares(runner, Threads(1, "classify"), MOST)
        (last,) = submitted(shares, image(3))
        shares.close()
        answers.append(await last.answer)

    answers = list[list[float]]()
    runner.let_go.release()
    closing = Thread(target=asyncio.run, args=[scenario()], daemon=True)  # or a failure would hang
    closing.start()
    closing.join(10)
    assert answers == [[36.0]]


async def all_rest(shares: Shares) -> None:
    await until(lambda: len(shares.threads.idle) == shares.number)


def test_who_is_alone_is_spread_over_all_cores_and_who_comes_meanwhile_is_not(lane: Lane, runner: Summing) -> None:
    async def scenario() -> None:
        spread = Summing()
        shares = lane(2, spread)
        for alone in range(1, 3):
            await all_rest(shares)
            first, beside = work(image(1)), work(image(2))
            shares.submit(first)
            await until(lambda alone=alone: len(spread.batches) == alone)
            shares.submit(beside)
            await until(lambda alone=alone: len(runner.batches) == alone)
            spread.let_go.release()
            runner.let_go.release()
            assert await asyncio.gather(first.answer, beside.answer) == [[12.0], [24.0]]

    asyncio.run(scenario())


def test_what_was_spread_teaches_nothing_of_what_others_take(lane: Lane) -> None:
    """Or an idle service would refuse who has time enough for one, or let in more than it can answer."""

    async def scenario() -> None:
        spread = Summing()
        shares = lane(2, spread)
        shares.opened, shares.expected_s = True, 0.05
        for _ in range(3):
            await all_rest(shares)
            first = work(image(1), seconds=0.5)
            shares.submit(first)
            spread.let_go.release()
            assert await first.answer == [12.0]
        await all_rest(shares)
        assert (shares.expected_s, spread.batches) == (0.05, [1, 1, 1])

    asyncio.run(scenario())


def test_who_is_alone_may_try_whatever_one_core_would_take(lane: Lane, runner: Summing) -> None:
    """An expectation is of one core: on all of them it may be in time."""

    async def scenario() -> None:
        spread = Summing()
        shares = lane(2, spread)
        shares.expected_s = 5.0
        await all_rest(shares)
        alone = work(image(1), seconds=2.0)
        shares.submit(alone)
        spread.let_go.release()
        assert await alone.answer == [12.0]
        assert (runner.batches, spread.batches) == ([], [1])

    asyncio.run(scenario())


@pytest.mark.parametrize(("seconds", "largest", "expected"), [(0.0001, 64, MOST), (0.0001, 3, 3), (0.02, 64, 1)])
def test_only_short_inferences_are_worth_a_batch(seconds: float, largest: int, expected: int) -> None:
    assert worth_a_batch(seconds, largest) == expected
