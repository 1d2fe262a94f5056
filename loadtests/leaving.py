"""What clients notice when a service is asked to stop, and when one of its two workers is killed.

SERVING_MODELS=TAG python -m loadtests.leaving
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gevent
import psutil

from loadtests.command_line import positive
from loadtests.json_file import write_json
from loadtests.load import Closed, run_load
from loadtests.local_service import LocalService, ServiceError, local_service
from loadtests.machine import machine
from loadtests.recording import Outcome
from loadtests.results import Target
from loadtests.steady import whoever

CLOSED = re.compile(r"closed; answered (\d+) requests in all, (\d+) left")  # ours, of each worker that leaves
UNDISTURBED_S = 3.0
REPLACED_WITHIN_S = 13.0  # BentoML's supervisor looks every 10 s, and a worker takes some 2 s to be ready
LEAVES_WITHIN_S = 10.0
BEGINS_WITHIN_S = 60.0
PIECE_S = 2.0
LOOK_S = 0.02


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {"asked_to_stop": [], "worker_killed": []}
    for number in range(1, options.runs + 1):
        for name, run in (("asked_to_stop", asked_to_stop), ("worker_killed", worker_killed)):
            found[name].append(run(options.users))
            print(f"run {number} of {options.runs}: {as_text(found[name][-1])}", flush=True)
    result = {"users": options.users, **found, "machine": machine(), "finished": time.strftime("%Y-%m-%d %H:%M:%S%z")}
    write_json(options.out, result)
    print(f"report: {options.out}")
    return 0 if all(each["holds"] for runs in found.values() for each in runs) else 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.leaving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 1 where an answer was lost, more failed than the killed worker held, or none replaced it",
    )
    top.add_argument("--runs", type=positive(int), default=3, help="of either kind (default: 3)")
    top.add_argument("--users", type=positive(int), default=16, help="of a closed workload (default: 16)")
    top.add_argument("--out", type=Path, default=Path("build/bench/leaving.json"))
    return top


def asked_to_stop(users: int) -> dict[str, Any]:
    """SIGTERM under load: whether clients got as many answers as the workers gave."""
    with local_service() as service:
        stop = psutil.Process(service.pid).terminate
        outcomes = under_load(service, users, stop, UNDISTURBED_S + LEAVES_WITHIN_S)  # ends once nobody listens
        until(lambda: len(CLOSED.findall(service.log())) >= service.begun(), LEAVES_WITHIN_S)
        return after_stop(service.log(), outcomes)


def after_stop(log: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What failed is told and not judged: nobody accepts a connection once the service has gone."""
    closed = CLOSED.findall(log)
    given, left = (sum(int(each[place]) for each in closed) for place in (0, 1))
    answered = sum(each.status == 200 for each in outcomes)
    return {
        "event": "SIGTERM",
        "answered": answered,
        "given_by_the_service": given,
        "left_unanswered": left,
        "other_statuses": others(outcomes),
        "failed_by": failures(outcomes),
        "holds": bool(closed) and given == answered and left == 0 and not others(outcomes),
    }


def worker_killed(users: int) -> dict[str, Any]:
    """SIGKILL of one of two workers under load. Raises ServiceError where there are not two."""
    seen: dict[str, Any] = {"connections_held": 0, "replaced_after_s": None}
    with local_service(environment={"SERVING_WORKERS": "2"}) as service:
        if not until(lambda: service.begun() == 2, BEGINS_WITHIN_S):
            raise ServiceError(f"{service.begun()} of 2 workers began; the log ends:\n{service.log()[-4000:]}")

        def kill() -> None:
            victim = workers(service.pid)[0]
            seen["connections_held"] = held(victim)
            at = time.monotonic()
            victim.kill()
            if until(lambda: service.begun() > 2, REPLACED_WITHIN_S):
                seen["replaced_after_s"] = round(time.monotonic() - at, 2)

        outcomes = under_load(service, users, kill, PIECE_S)
    return after_kill(outcomes, **seen)


def after_kill(outcomes: Sequence[Outcome], connections_held: int, replaced_after_s: float | None) -> dict[str, Any]:
    """What the dead worker had in hand may fail, one request a connection, and nothing else."""
    failed = failures(outcomes)
    in_hand_alone = sum(failed.values()) <= connections_held and not others(outcomes)
    return {
        "event": "SIGKILL of one of two workers",
        "answered": sum(each.status == 200 for each in outcomes),
        "connections_held": connections_held,
        "replaced_after_s": replaced_after_s,
        "other_statuses": others(outcomes),
        "failed_by": failed,
        "holds": replaced_after_s is not None and in_hand_alone,
    }


def under_load(service: LocalService, users: int, event: Callable[[], object], piece_s: float) -> list[Outcome]:
    """Every outcome of a closed workload, in which `event` happens after a while: in pieces, until it is over."""
    outcomes: list[Outcome] = []
    happens = gevent.spawn_later(UNDISTURBED_S, event)
    while not happens.ready():
        run_load(
            Target(service.url, "whoever"), Closed(users, begin_within_s=0.5), whoever(), seconds=piece_s,
            warm_up_s=0.0, on_outcome=outcomes.append,
        )  # fmt: skip
    happens.get()
    return outcomes


def failures(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return dict(Counter(each.problem for each in outcomes if not each.status))


def others(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {str(status): n for status, n in Counter(each.status for each in outcomes).items() if status not in (0, 200)}


def workers(pid: int) -> list[psutil.Process]:
    """Of the service whose process that is."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if any("worker.service" in part for part in child.cmdline())]


def held(worker: psutil.Process) -> int:
    """Connections that clients have with it."""
    return sum(each.status == "ESTABLISHED" for each in worker.net_connections())


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time; others run meanwhile."""
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        gevent.sleep(LOOK_S)
    return condition()


def as_text(found: dict[str, Any]) -> str:
    verdict = "holds" if found["holds"] else "does not hold"
    skipped = {"event", "holds"}
    return f"{found['event']}: {', '.join(f'{k} {v}' for k, v in found.items() if k not in skipped)}: {verdict}"


if __name__ == "__main__":
    sys.exit(main())
