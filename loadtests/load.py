"""Load on one target: an open workload, sent when it is due, or a closed one, by users who wait for their answers."""

from __future__ import annotations

import gc
import itertools
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import gevent
from gevent.pool import Group

from loadtests.alarm import Alarm
from loadtests.recording import Outcome, Recording, Stage
from loadtests.results import Target
from loadtests.scenario import Payload
from loadtests.schedule import Schedule
from loadtests.sending import Request, Sender, rendered

GONE_S = 2.0  # nobody could connect for so long: the server is no more
BACK_OFF_S = 0.1  # of a user who could not connect, before the next attempt
ELSEWHERE = "send at a lower rate, or from more processes (locust --processes) or another machine"


@dataclass(frozen=True, slots=True)
class Open:
    """Requests come by a schedule, whatever became of those before."""

    schedule: Schedule
    seed: int


@dataclass(frozen=True, slots=True)
class Closed:
    """Each user sends a request when the last is answered. They begin one by one within `begin_within_s`, by default
    half of the warm-up."""

    users: int
    begin_within_s: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What `seconds` of load, warm-up left out, recorded. `incomplete` says why it ended early, `invalid` why it was
    not the load that was asked for; both are empty for a sound one."""

    seconds: float
    recording: Recording
    incomplete: str = ""
    invalid: str = ""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; `load` is what was measured until then, without the requests still out."""

    def __init__(self, load: Load) -> None:
        super().__init__(load.incomplete)
        self.load = load


def run_load(
    target: Target,
    workload: Open | Closed,
    payloads: Sequence[Payload],
    *,
    seconds: float,
    warm_up_s: float,
    patience_s: float = 10.0,
    max_lag_ms: float = 5.0,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Load:
    """Record the requests that are due (closed: sent) in `seconds`; those of the warm-up before are sent as well.

    A schedule begins with the warm-up, and ends the load where it ends first. Times of outcomes are seconds since the
    warm-up's end. Requests still out at the end are waited for; each is given up `patience_s` after it was sent, and is
    then a failure whose latency nobody knows. The load is invalid where 1 % of the requests were sent more than
    `max_lag_ms` after they were due. It is incomplete where nobody could connect to the server for 2 s on end, or
    another than the target's version answered.
    `on_outcome` gets each outcome that is recorded. Raises Interrupted.
    """
    raise_file_limit()
    hand_on_interrupts()
    requests = [rendered(payload, target) for payload in payloads]
    recording = Recording()

    def ask(request: Request, due_s: float | None = None) -> Outcome:
        outcome = sender.send(request, due_s)
        if 0 <= outcome.due_s < seconds:
            recording.add(outcome)
            if on_outcome is not None:
                on_outcome(outcome)
        return outcome

    def load(ended_s: float, incomplete: str = "") -> Load:
        return Load(
            min(max(ended_s, 0.0), seconds), recording, incomplete, invalid(recording, sender.limit, max_lag_ms)
        )

    sender = Sender(target.host, patience_s=patience_s, origin=time.perf_counter() + warm_up_s)
    with sender, older_objects_left_to_themselves():
        try:
            if isinstance(workload, Open):
                due = (at - warm_up_s for at in workload.schedule.endless(workload.seed))
                ended_s = send_open(sender, ask, requests, due, seconds)
            else:
                within_s = warm_up_s / 2 if workload.begin_within_s is None else workload.begin_within_s
                ended_s = send_closed(sender, ask, requests, workload.users, seconds, within_s)
        except KeyboardInterrupt:
            ended_s = max(sender.now(), 0.0)
            raise Interrupted(load(ended_s, f"interrupted after {ended_s:.1f} s of {seconds:g} s")) from None
        return load(ended_s, gone(sender, target) or replaced(recording, target))


def send_open(
    sender: Sender,
    ask: Callable[[Request, float], Outcome],
    requests: Sequence[Request],
    due: Iterator[float],
    seconds: float,
) -> float:
    """When it ended, in seconds."""
    due_s, outstanding = 0.0, Group()
    with killed(outstanding), Alarm() as alarm:
        for due_s, request in zip(due, itertools.cycle(requests)):
            if due_s >= seconds:
                break
            alarm.wait(sender.origin + due_s)
            if sender.unreachable_s > GONE_S:
                due_s = sender.now()
                break
            outstanding.spawn(ask, request, due_s)
        outstanding.join()
    return due_s


def send_closed(
    sender: Sender,
    ask: Callable[[Request], Outcome],
    requests: Sequence[Request],
    users: int,
    seconds: float,
    within_s: float,
) -> float:
    """When it ended, in seconds. Users do not march in step: they begin one by one, each with another request.

    Where all answers take equally long, those who began together would ask together for good, and wait for each other.
    """

    def user(number: int) -> None:
        first = number % len(requests)
        upcoming = itertools.cycle([*requests[first:], *requests[:first]])
        gevent.sleep(within_s * number / users)
        while sender.now() < seconds and sender.unreachable_s <= GONE_S:
            ask(next(upcoming))
            if sender.unreachable_since is not None:
                gevent.sleep(BACK_OFF_S)

    group = Group()
    with killed(group):
        for number in range(users):
            group.spawn(user, number)
        group.join(raise_error=True)
    return sender.now()


def invalid(recording: Recording, limit: str, max_lag_ms: float) -> str:
    """Why the load was not the one asked for; empty where it was."""
    if limit:
        return f"the generator got no more connections ({limit}): raise `ulimit -n`, or {ELSEWHERE}"
    return late(recording, max_lag_ms)


def late(recording: Recording, max_lag_ms: float) -> str:
    """How the requests were sent too late; empty where they were not."""
    lag_ms = recording.percentile_ms(Stage.LAG, 99)
    if lag_ms is None or lag_ms <= max_lag_ms:
        return ""
    return f"the generator was late: p99 send lag {lag_ms:.1f} ms, at most {max_lag_ms:g} ms allowed; {ELSEWHERE}"


def gone(sender: Sender, target: Target) -> str:
    """Why the load ended early; empty where the server is there. It is asked until that is known."""
    while sender.unreachable_since is not None and sender.unreachable_s <= GONE_S:
        with suppress(OSError):
            sender.connected().close()
        gevent.sleep(BACK_OFF_S)
    if sender.unreachable_s <= GONE_S:
        return ""
    return (
        f"{target.host}: every attempt to connect failed for {GONE_S:g} s, the load ended {max(sender.now(), 0):.1f} s "
        "after its start; see the service's log, start it again and repeat the run"
    )


def replaced(recording: Recording, target: Target) -> str:
    """How others than the target's version answered; empty where none did."""
    others = {version: count for version, count in recording.versions.items() if version != target.version}
    if not target.version or not others:
        return ""
    version = max(others, key=others.__getitem__)
    return (
        f"{others[version]:,} of {recording.answered:,} answers of {target.variant} came from its version {version}, "
        f"not from {target.version}, which {target.host}/variants told at the beginning; repeat the run once all that "
        "answer there serve the same"
    )


@contextmanager
def killed(group: Group) -> Iterator[None]:
    """Whoever is left in it, at the end."""
    try:
        yield
    finally:
        group.kill()


@contextmanager
def older_objects_left_to_themselves() -> Iterator[None]:
    """A collection among all that was there before stops every greenlet for some 10 ms."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def hand_on_interrupts() -> None:
    """Ctrl-C comes to whichever greenlet runs; gevent hands it on to the main one, and shall not print where it was."""
    gevent.get_hub().NOT_ERROR = (*gevent.hub.Hub.NOT_ERROR, KeyboardInterrupt)


def raise_file_limit() -> None:
    """An open workload on a server that stalls holds a connection for each request."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # where no limit is one that cannot be set
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
