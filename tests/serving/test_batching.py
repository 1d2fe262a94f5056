"""Requests that wait go to the runner together; nobody waits for company, and nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.batching import Batches
from serving.classifier import Classifier
from serving.config import Batching
from serving.errors import RequestError
from serving.http_api import HttpApi
from serving.metrics import metrics
from serving.shares import Shares
from serving.threads import Threads
from serving.work import Moments, Work
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening

MOST = 8
SICK = 255  # a pixel that this runner cannot stand


class Summing:
    """Its logit is the sum of an image's pixels; it takes a batch when it is let go, and remembers its size."""

    runtime, device, engine = "sums", "cuda:0", None

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.let_go = threading.Semaphore(0)

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        assert self.let_go.acquire(timeout=20)
        if (images == SICK).any():
            raise ValueError("a sick image")
        return images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)[:, np.newaxis]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def runner() -> Summing:
    return Summing()


@pytest.fixture
def lane(runner: Summing) -> Iterator[Batches]:
    threads = Threads(2, "decode")
    batches = Batches(runner, threads, MOST, "any")
    yield batches
    runner.let_go.release(1000)
    batches.close()
    threads.close()


def image(value: int, count: int = 1) -> np.ndarray:
    return np.full((count, 2, 2, 3), value, np.uint8)


def work(pixels: np.ndarray, seconds: float = 20.0) -> Work[list[float]]:
    now = time.perf_counter()
    return Work(lambda: pixels, lambda logits, _: logits[:, 0].tolist(), Moments(now, now), now + seconds)


async def until(condition: Any) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.001)


async def hold(lane: Batches, runner: Summing) -> Work[list[float]]:
    """The runner has one request and keeps it, so that what comes next has to wait."""
    first = work(image(1))
    lane.submit(first)
    await until(lambda: runner.batches == [1])
    return first


def test_a_request_alone_does_not_wait_and_those_behind_it_go_together(lane: Batches, runner: Summing) -> None:
    async def scenario() -> None:
        first = await hold(lane, runner)
        rest = [work(image(value)) for value in range(2, 7)]
        for each in rest:
            lane.submit(each)
        await until(lambda: lane.waiting() == 5)
        runner.let_go.release(2)
        assert await first.answer == [12.0]
        assert [await each.answer for each in rest] == [[value * 12.0] for value in range(2, 7)]
        assert runner.batches == [1, 5]

    asyncio.run(scenario())


def test_batches_are_no_larger_than_the_runner_takes_and_keep_the_order(lane: Batches, runner: Summing) -> None:
    async def scenario() -> None:
        first = await hold(lane, runner)
        rest = [work(image(value, count)) for value, count in ((1, 3), (2, 4), (3, 2), (4, 8))]
        for number, each in enumerate(rest, 1):
            lane.submit(each)
            await until(lambda number=number: lane.waiting() == number)
        runner.let_go.release(10)
        assert await first.answer
        assert [len(await each.answer) for each in rest] == [3, 4, 2, 8]
        assert (await rest[2].answer)[0] == 36.0
        assert runner.batches == [1, 7, 2, 8]

    asyncio.run(scenario())


def test_who_makes_a_batch_fail_fails_alone(lane: Batches, runner: Summing) -> None:
    async def scenario() -> None:
        first = await hold(lane, runner)
        rest = [work(image(value)) for value in (2, SICK, 4)]
        for each in rest:
            lane.submit(each)
        await until(lambda: lane.waiting() == 3)
        runner.let_go.release(10)
        await first.answer
        found = await asyncio.gather(*(each.answer for each in rest), return_exceptions=True)
        assert found[0] == [24.0]
        assert isinstance(found[1], ValueError)
        assert found[2] == [48.0]
        assert runner.batches == [1, 3, 1, 1, 1]

    asyncio.run(scenario())


def test_what_cannot_be_read_joins_no_batch(lane: Batches, runner: Summing) -> None:
    def unreadable() -> Any:
        raise RequestError(400, "not_an_image", "no image")  # type: ignore[arg-type]

    async def scenario() -> None:
        first = await hold(lane, runner)
        now = time.perf_counter()
        bad: Work[Any] = Work(unreadable, lambda logits, _: logits, Moments(now, now), now + 9)
        lane.submit(bad)
        with pytest.raises(RequestError):
            await bad.answer
        runner.let_go.release()
        await first.answer
        assert runner.batches == [1]

    asyncio.run(scenario())


def test_who_gives_up_leaves_the_queue(lane: Batches, runner: Summing) -> None:
    async def scenario() -> None:
        first = await hold(lane, runner)
        released = []
        quitter, patient = work(image(2)), work(image(3))
        quitter.on_release = lambda: released.append(True)
        for each in (quitter, patient):
            lane.submit(each)
        await until(lambda: lane.waiting() == 2)
        quitter.leave()
        runner.let_go.release(2)
        assert await first.answer
        assert await patient.answer == [36.0]
        assert runner.batches == [1, 1]
        await until(lambda: released == [True])

    asyncio.run(scenario())


def test_what_would_end_after_its_deadline_is_not_begun_and_such_a_judgement_wears_off(
    lane: Batches, runner: Summing
) -> None:
    async def scenario() -> None:
        runner.let_go.release(100)
        slow = work(image(1))
        lane.submit(slow)
        await slow.answer
        lane.expected_s[1] = 5.0
        hopeless = work(image(2), seconds=1.0)
        lane.submit(hopeless)
        with pytest.raises(RequestError) as caught:
            await hopeless.answer
        assert caught.value.status == 504
        assert runner.batches == [1]
        for _ in range(20):  # by then it expects less than a second
            again = work(image(2), seconds=1.0)
            lane.submit(again)
            await asyncio.wait([again.answer])
            if again.answer.exception() is None:
                return
        raise AssertionError("turned away for ever")

    asyncio.run(scenario())


def test_a_batch_does_not_grow_beyond_what_the_most_pressing_has_time_for(lane: Batches, runner: Summing) -> None:
    async def scenario() -> None:
        first = await hold(lane, runner)
        lane.expected_s |= {1: 0.001, 4: 30.0}
        rest = [work(image(value), seconds=10.0) for value in (2, 3, 4)]
        for number, each in enumerate(rest, 1):
            lane.submit(each)
            await until(lambda number=number: lane.waiting() == number)
        runner.let_go.release(10)
        await first.answer
        for each in rest:
            await each.answer
        assert runner.batches == [1, 2, 1]

    asyncio.run(scenario())


def test_durations_are_kept_by_the_sizes_that_an_engine_has_graphs_for(runner: Summing) -> None:
    threads = Threads(1, "decode")
    batches = Batches(runner, threads, 6, "any")
    assert [batches.bucket(images) for images in (1, 2, 3, 4, 5, 6)] == [1, 2, 4, 4, 6, 6]
    batches.close()
    threads.close()


def test_batches_answer_what_single_requests_do(exported_pair: tuple[str, str]) -> None:
    """Through the whole application, by both variants at once, whose images never share a batch."""
    images = [encoded(size=(30 + index, 40)) for index in range(12)]

    def answers(batching: str) -> list[Any]:
        async def ask(client: TestClient) -> list[Any]:
            calls = [
                asyncio.to_thread(client.post, f"/classify?variant={variant}", content=content)
                for content in images
                for variant in PAIR
            ]
            return [response.json() for response in await asyncio.gather(*calls)]

        with opening(exported_pair, batching=batching) as opened:
            assert opened.classifier is not None
            lanes = {type(served.lane) for served in opened.classifier.served.values()}
            assert lanes == {Batches if batching == "on" else Shares}
            return asyncio.run(ask(TestClient(HttpApi(PlainTextResponse(""), opened))))

    for together, alone in zip(answers("on"), answers("off"), strict=True):
        assert together["variant"] == alone["variant"]
        assert [each["index"] for each in together["predictions"]] == [each["index"] for each in alone["predictions"]]
        for found, expected in zip(together["predictions"], alone["predictions"], strict=True):
            assert found["probability"] == pytest.approx(expected["probability"], abs=2e-6)


@pytest.mark.parametrize("batching", Batching)
def test_what_goes_to_the_runner_is_counted_however_it_gets_there(
    exported_pair: tuple[str, str], batching: Batching
) -> None:
    sizes = metrics().batches_of(PAIR[0])
    sizes.clear()
    with opening(exported_pair[:1], batching=batching) as opened:
        client = TestClient(HttpApi(PlainTextResponse(""), opened))
        assert [client.post("/classify", content=encoded()).status_code for _ in range(3)] == [200] * 3
        assert list(sizes) == [1, 1, 1]


def test_threads_share_out_what_a_cpu_infers_and_a_gpu_has_batches(exported_pair: tuple[str, str]) -> None:
    with opening(exported_pair[:1]) as opened:
        classifier = opened.classifier
        assert isinstance(classifier, Classifier)
        (served,) = classifier.served.values()
        assert isinstance(served.lane, Shares)
        on_gpu = classifier.lane(Summing(), served.manifest, None, alone_s=0.0)
        assert isinstance(on_gpu, Batches)
        assert on_gpu.width == served.manifest.max_batch_size
        assert len(on_gpu.dispatchers) == 1
        on_gpu.close()
