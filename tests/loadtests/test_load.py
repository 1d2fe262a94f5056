"""Load is what was asked for, is timed from when it was due, and what was measured outlives server and Ctrl-C."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import gevent
import gevent.server
import gevent.socket
import numpy as np
import pytest

from loadtests import load as load_module
from loadtests.alarm import Alarm
from loadtests.load import Closed, Interrupted, Open, run_load
from loadtests.local_service import LocalService
from loadtests.recording import Outcome, Stage
from loadtests.results import Target
from loadtests.scenario import Payload
from loadtests.schedule import read_schedule
from loadtests.sending import Sender, rendered
from tests.conftest import ROOT

OPEN = Open(read_schedule("poisson:100"), seed=3)


def payload(path: str = "/classify?variant={variant}", body: bytes = b"pixels", **headers: str) -> Payload:
    named = {f"x-{name.replace('_', '-')}": value for name, value in headers.items()}
    return Payload(body, {"content-type": "image/x", **named}, path, '"variant":"{variant}"')


def test_arrivals_come_at_their_rate_and_the_same_for_the_same_seed() -> None:
    schedule = read_schedule("poisson:200")
    due = list(schedule.due_s(50.0, seed=3))
    assert due == list(schedule.due_s(50.0, seed=3)) == sorted(due)
    assert due != list(schedule.due_s(50.0, seed=4))
    assert len(due) == pytest.approx(10_000, rel=0.05)
    gaps = np.diff(due)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as an exponential's are


def test_an_open_load_is_its_schedule_without_the_warm_up(target: Target) -> None:
    outcomes: list[Outcome] = []
    found = run_load(target, OPEN, [payload()], seconds=0.6, warm_up_s=0.3, max_lag_ms=1e4, on_outcome=outcomes.append)
    planned = [due_s - 0.3 for due_s in OPEN.schedule.due_s(0.9, OPEN.seed) if due_s >= 0.3]
    assert sorted(outcome.due_s for outcome in outcomes) == planned
    assert found.recording.answered == len(planned)
    assert (found.seconds, found.incomplete, found.invalid) == (0.6, "", "")
    assert found.recording.percentile_ms(Stage.INFER, 50) == pytest.approx(10, rel=1e-3)
    assert all(outcome.due_s <= outcome.sent_s <= outcome.ended_s for outcome in outcomes)


def test_a_load_ends_with_its_schedule(target: Target) -> None:
    found = run_load(target, Open(read_schedule("step:100x0.2"), 0), [payload()], seconds=60, warm_up_s=0)
    assert 0 < found.seconds < 0.2
    assert not found.incomplete


def test_latency_counts_from_when_a_request_was_due(target: Target) -> None:
    """Whoever was due in a stall of the server is sent in it, and waits for its end."""
    outcomes: list[Outcome] = []
    payloads = [payload(stall_s="0.7") if number == 10 else payload() for number in range(60)]
    workload = Open(read_schedule("constant:100"), 0)
    run_load(target, workload, payloads, seconds=0.6, warm_up_s=0, on_outcome=outcomes.append)
    outcomes.sort(key=lambda outcome: outcome.due_s)
    stall = outcomes[10]
    waited = [outcome for outcome in outcomes if stall.due_s + 0.15 < outcome.due_s < stall.due_s + 0.4]
    assert len(waited) > 20
    assert all(outcome.sent_s < stall.ended_s < outcome.ended_s + 0.1 for outcome in waited)
    assert not any(outcome.problem for outcome in outcomes)


def test_users_of_a_closed_load_wait_for_their_answers(target: Target) -> None:
    outcomes: list[Outcome] = []
    found = run_load(target, Closed(3), [payload()], seconds=0.5, warm_up_s=0.1, on_outcome=outcomes.append)
    assert found.recording.answered == len(outcomes) > 9
    assert all(0 <= outcome.sent_s == outcome.due_s < 0.5 for outcome in outcomes)
    moments = sorted([(each.sent_s, 1) for each in outcomes] + [(each.ended_s, -1) for each in outcomes])
    assert max(itertools.accumulate(change for _, change in moments)) == 3


def test_users_begin_one_by_one(target: Target) -> None:
    outcomes: list[Outcome] = []
    workload = Closed(3, begin_within_s=0.3)
    run_load(target, workload, [payload()], seconds=0.5, warm_up_s=0, on_outcome=outcomes.append)
    moments = sorted([(each.sent_s, 1) for each in outcomes] + [(each.ended_s, -1) for each in outcomes])
    at_once = list(itertools.accumulate(change for _, change in moments))
    assert all(count <= 1 + (at + 0.005) / 0.1 for (at, _), count in zip(moments, at_once, strict=True))
    assert max(at_once) == 3


@pytest.mark.parametrize(
    ("sent", "reason", "status"),
    [
        (payload(status="429"), "429 overloaded", "4xx"),
        (payload("/classify?variant=another"), '200 without "variant":"resnet20-preact"', "2xx"),
        (payload("/silence"), "no answer within 0.2 s", "none"),
    ],
)
def test_what_is_no_answer_is_counted_by_its_reason(target: Target, sent: Payload, reason: str, status: str) -> None:
    varied = [Payload(sent.body * number, sent.headers, sent.path, sent.answered) for number in (1, 2, 3)]
    workload = Open(read_schedule("constant:100"), 0)
    found = run_load(target, workload, varied, seconds=0.1, warm_up_s=0, patience_s=0.2).recording
    assert (found.answered, found.failed) == (0, 9)
    assert found.failures == {reason: 9}
    assert found.statuses == {status: 9}
    assert found.percentile_ms(Stage.TOTAL, 50) is None
    assert found.percentile_ms(Stage.LAG, 50) is not None


def test_a_connection_is_kept_until_the_server_closes_it(target: Target) -> None:
    with Sender(target.host, patience_s=5) as sender:
        for _ in range(3):
            assert not sender.send(rendered(payload(), target)).problem
            assert len(sender.free) == 1
        assert not sender.send(rendered(payload(close="yes"), target)).problem
        assert not sender.free


def test_a_connection_that_was_closed_while_it_was_idle_costs_no_request() -> None:
    accepted = []

    def once(socket: gevent.socket.socket, address: tuple[str, int]) -> None:
        accepted.append(address)
        socket.recv(65536)
        socket.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n"variant": "v"')
        socket.close()

    server = gevent.server.StreamServer(("127.0.0.1", 0), once)
    server.start()
    request = rendered(
        Payload(b"", {}, "/", '"variant":"{variant}"'), Target(f"http://127.0.0.1:{server.server_port}", "v")
    )
    with Sender(f"http://127.0.0.1:{server.server_port}", patience_s=5) as sender:
        for _ in range(3):
            assert sender.send(request).problem == ""
            gevent.sleep(0.02)
    server.stop()
    assert len(accepted) == 3


@pytest.mark.parametrize("workload", [OPEN, Closed(2)], ids=["open", "closed"])
def test_a_server_that_dies_ends_the_load_and_leaves_what_was_measured(
    mortal_server: LocalService, monkeypatch: pytest.MonkeyPatch, workload: Open | Closed
) -> None:
    monkeypatch.setattr(load_module, "GONE_S", 0.2)
    payloads = [payload()] * 20 + [payload("/die")]
    found = run_load(Target(mortal_server.url, "v"), workload, payloads, seconds=30, warm_up_s=0)
    assert 5 < found.recording.answered < 100
    assert found.recording.failures["no answer: ConnectionRefusedError"] > 0
    assert "every attempt to connect failed" in found.incomplete
    assert 0 < found.seconds < 20


@pytest.mark.parametrize("workload", [OPEN, Closed(2)], ids=["open", "closed"])
def test_ctrl_c_leaves_what_was_measured(target: Target, workload: Open | Closed) -> None:
    count = itertools.count(1)

    def interrupt(_: Outcome) -> None:
        if next(count) == 10:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        run_load(target, workload, [payload()], seconds=30, warm_up_s=0, on_outcome=interrupt)
    assert 9 <= caught.value.load.recording.answered < 30
    assert 0 < caught.value.load.seconds < 20
    assert "interrupted" in caught.value.load.incomplete
    assert isinstance(caught.value, KeyboardInterrupt)


def test_a_late_generator_is_told_from_a_slow_server(target: Target) -> None:
    def load(delay_ms: str, on_outcome: Callable[[Outcome], None] | None) -> load_module.Load:
        return run_load(
            target, OPEN, [payload(delay_ms=delay_ms)],
            seconds=0.3, warm_up_s=0, max_lag_ms=150, on_outcome=on_outcome,
        )  # fmt: skip

    assert load("300", None).invalid == ""
    late = load("1", lambda _: time.sleep(0.04)).invalid
    assert "the generator was late: p99 send lag" in late
    assert "at most 150 ms allowed" in late


def test_an_alarm_wakes_not_before_its_moment_and_lets_others_run() -> None:
    ran = []
    with Alarm() as alarm:
        for ahead_s in (0.01, 0.0005, -1.0):
            moment = time.perf_counter() + ahead_s
            gevent.spawn(ran.append, ahead_s)
            alarm.wait(moment)
            assert time.perf_counter() >= moment
            assert ran[-1] == ahead_s


def test_ctrl_c_that_comes_to_a_request_reaches_the_caller_in_silence() -> None:
    program = """if True:
        import os, signal, gevent
        from loadtests.load import hand_on_interrupts
        hand_on_interrupts()
        gevent.spawn(lambda: (os.kill(os.getpid(), signal.SIGINT), sum(range(1_000_000))))
        try:
            gevent.sleep(20)
        except KeyboardInterrupt:
            print("interrupted")
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
