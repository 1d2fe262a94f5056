"""One recording of a Locust test, whether one process makes the load or a master's workers do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from locust import LoadTestShape
from locust.runners import STATE_INIT, STATE_MISSING, MasterRunner, Runner

from loadtests.recording import Recording
from loadtests.shares import Share
from loadtests.users import Work


def report(work: Work) -> dict[str, Any]:
    """From a worker to its master: what is new since the last report, and how far it is with its share."""
    return {
        "recording": work.handed_on().to_dict(),
        "seconds": work.seconds,
        "incomplete": work.incomplete,
        "limit": work.sender.limit,
    }


class Gathering:
    """Of the processes whose names are in `senders`, each with a share of the schedule, if there is one."""

    def __init__(self, senders: list[str]) -> None:
        self.recording, self.senders, self.begun = Recording(), senders, time.perf_counter()
        self.seconds: dict[str, float] = {}  # of the schedule, by those who have sent all their share
        self.problems: dict[str, str] = {}
        self.limits: dict[str, str] = {}
        self.elapsed_s = 0.0

    def take(self, sender: str, content: dict[str, Any]) -> None:
        self.recording.merge(Recording.from_dict(content["recording"]))
        for kept, name in ((self.seconds, "seconds"), (self.problems, "incomplete"), (self.limits, "limit")):
            if content[name]:
                kept[sender] = content[name]

    def is_finished(self) -> bool:
        return all(sender in self.seconds or sender in self.problems for sender in self.senders)

    def incomplete(self, of_schedule: bool) -> str:
        problems = sorted(set(self.problems.values()))
        if of_schedule and not self.is_finished():
            problems.append("stopped before the schedule had ended")
        return "; ".join(problems)

    def lasted_s(self) -> float:
        return max(self.seconds.values(), default=self.elapsed_s)


def shares(schedule: str, seed: int, seconds: float, workers: list[str]) -> dict[str, Share]:
    return {name: Share(schedule, seed, seconds, index, len(workers)) for index, name in enumerate(workers)}


def active_workers(runner: Runner | None) -> list[str]:
    """Those that Locust spawns users on."""
    if not isinstance(runner, MasterRunner):
        return []
    return [client.id for client in runner.clients.ready + runner.clients.running + runner.clients.spawning]


class UntilScheduleEnds(LoadTestShape):
    """One user in each process, until all of them have sent their share and have their answers."""

    use_common_options = True
    abstract = True  # for Locust, which would take it for every test; the locustfile chooses

    def __init__(self, runner: Runner, gathering: Callable[[], Gathering | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.runner: Runner = runner
        self.gathering, self.processes = gathering, 1

    def tick(self) -> tuple[int, float] | None:
        if self.runner.state == STATE_INIT:
            self.processes = len(active_workers(self.runner)) or 1
        elif gathering := self.gathering():
            self.lose(gathering)
            if gathering.is_finished():
                return None
        return self.processes, self.processes

    def lose(self, gathering: Gathering) -> None:
        """Workers that are gone leave their shares undone."""
        if isinstance(self.runner, MasterRunner):
            for name in gathering.senders:
                client = self.runner.clients.get(name)
                if name not in gathering.seconds and (client is None or client.state == STATE_MISSING):
                    gathering.problems[name] = f"worker {name} was lost; the rest of its share is not in the results"
