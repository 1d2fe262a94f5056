"""An open workload is sent on time whatever the service does, and the account of it adds up."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import numpy as np
import pytest

from loadtests.local_service import LocalService
from loadtests.open_loop import Outcome, poisson, posts, run_open
from loadtests.overload import NORMAL, back_to_normal, main
from tests.serving.test_http_api import encoded


def test_arrivals_come_at_their_rate_and_the_same_for_the_same_seed() -> None:
    due = list(poisson(200.0, 50.0, seed=3))
    assert due == list(poisson(200.0, 50.0, seed=3)) == sorted(due)
    assert due != list(poisson(200.0, 50.0, seed=4))
    assert len(due) == pytest.approx(10_000, rel=0.05)
    gaps = np.diff(due)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as an exponential's are


async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers nothing before the whole second has passed."""
    while await reader.readline():
        while (line := await reader.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        await reader.readexactly(length)
        await asyncio.sleep(max(0.0, FREE_AT - asyncio.get_running_loop().time()))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    writer.close()


FREE_AT = 0.0


async def end(server: asyncio.Server) -> None:
    """With its connections, whose clients are gone: what is left open, Python complains of."""
    server.close()
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=5)


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A stall of half a second is in every request that was due in it, and they are sent all the same."""

    async def scenario() -> list[Outcome]:
        global FREE_AT  # noqa: PLW0603
        server = await asyncio.start_server(stalling, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        FREE_AT = asyncio.get_running_loop().time() + 0.5
        requests = posts(f"http://127.0.0.1:{port}/any", [b"body"], 1000)
        outcomes = await run_open(f"http://127.0.0.1:{port}/any", requests, iter(np.arange(0, 1, 0.02).tolist()), 10.0)
        await end(server)
        return outcomes

    outcomes = asyncio.run(scenario())
    assert [outcome.status for outcome in outcomes] == [200] * 50
    first_answer = min(outcome.ended_s for outcome in outcomes)
    stalled = [outcome for outcome in outcomes if outcome.due_s < 0.3]
    assert all(outcome.sent_s < first_answer for outcome in stalled)
    assert all(outcome.latency_s >= first_answer - outcome.due_s for outcome in stalled)
    assert first_answer > 0.45


def test_who_does_not_answer_is_given_up_and_said_so() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def scenario() -> list[Outcome]:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        outcomes = await run_open(url, posts(url, [b"a"], 100), iter([0.0, 0.01]), 0.2)
        await end(server)
        return outcomes

    assert [(each.status, each.problem) for each in asyncio.run(scenario())] == [(0, "TimeoutError")] * 2


def outcomes(latencies: list[float], every_s: float = 0.1) -> list[Outcome]:
    return [
        Outcome(due, due, due + latency, 200)
        for due, latency in zip(itertools.count(0, every_s), latencies, strict=False)
    ]


def test_normal_is_when_the_last_slow_window_ends() -> None:
    usual = 0.01
    assert back_to_normal(outcomes([usual] * 50), NORMAL * usual) == 0.0
    assert back_to_normal(outcomes([0.5] * 8 + [usual] * 42), NORMAL * usual) == pytest.approx(1.0)
    assert back_to_normal(outcomes([0.5] * 50), NORMAL * usual) is None


def test_a_short_overload_of_the_real_service_is_answered_whole(
    service: LocalService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(encoded("JPEG"))
    arguments = ["--url", f"{service.url}/classify", "--image", str(picture), "--out", str(tmp_path / "out.json")]
    assert main([*arguments, "--times", "3", "--seconds", "1", "--capacity-seconds", "1", "--gentle-seconds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "none came: 0, not within 5000 ms: 0" in printed
    assert "'200': " in printed
