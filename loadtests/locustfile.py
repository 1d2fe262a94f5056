"""One variant under load by Locust: `locust -f loadtests/locustfile.py --host http://localhost:3000`.

Users of a closed workload, or with `--schedule` an open one, `--headless` or with Locust's pages, in one process or in
many (`--processes`, `--master` and `--worker`). `--tags open`, `closed` and `tensors` choose as well.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, Runner, WorkerRunner

from loadtests.command_line import positive
from loadtests.gathering import Gathering, UntilScheduleEnds, active_workers, report, shares
from loadtests.load import raise_file_limit
from loadtests.locust_results import as_text, results_of
from loadtests.results import Target
from loadtests.scenario import Payload, payloads, read_size, tensors
from loadtests.schedule import read_schedule
from loadtests.served import as_served, served
from loadtests.shares import Share
from loadtests.users import ClosedUser, OpenUser, Work

ALONE = "local"  # the name of the only process


class State:
    """Of the process that runs this file; Locust's listeners have nowhere else to keep it."""

    gathering: Gathering | None = None  # on a master, or alone
    work: Work | None = None  # on a worker, or alone
    share = Share()
    version = ""  # of the variant, where it was asked for before the test
    told = 0  # requests that were concluded on


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", default="resnet20-postact", help="the served variant to ask")
    parser.add_argument("--images", default="", help="folder of images to post (default: made-up JPEGs)")
    parser.add_argument("--image-size", default="224x224", help="WIDTHxHEIGHT of made-up JPEGs and of tensors")
    parser.add_argument("--image-bytes", type=positive(int), help="about so many in each made-up JPEG")
    parser.add_argument(
        "--schedule",
        default="",
        help="an open workload: poisson:RATE, constant:RATE, step:RATExSECONDS,... or trace:FILE",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument("--patience", type=positive(float), default=10.0, help="seconds to wait for an answer")
    parser.add_argument("--max-lag-ms", type=positive(float), default=5.0, help="p99 send lag of a valid open run")
    parser.add_argument("--results", default="", help="file for histograms and conditions as JSON")


@events.init.add_listener  # type: ignore[untyped-decorator]
def choose(environment: Environment, runner: Runner, **_: Any) -> None:
    """The workload by options or tags; a worker does what its master asks."""
    raise_file_limit()
    if isinstance(runner, WorkerRunner):
        runner.register_message("share", lambda msg, **_: setattr(State, "share", Share(**msg.data)))
        return
    if isinstance(runner, MasterRunner):
        runner.register_message("load", lambda msg, **_: take(msg.node_id, {"load": msg.data}))
    options = environment.parsed_options
    assert options is not None
    tags = set(options.tags or ())
    if not options.user_classes:
        chosen = OpenUser if options.schedule or "open" in tags else ClosedUser
        environment.user_classes[:] = [chosen]
    if "tensors" in tags:
        options.tags = ["tensors"]
    else:
        options.exclude_tags = [*(options.exclude_tags or ()), "tensors"]
    if OpenUser in environment.user_classes:
        environment.shape_class = UntilScheduleEnds(runner, lambda: State.gathering)
    try:
        check(environment, runner)
    except (OSError, ValueError) as error:
        refuse(environment, error)
        sys.exit(environment.process_exit_code)


def check(environment: Environment, runner: Runner) -> None:
    """Raises OSError and ValueError before a test, not in it."""
    options = environment.parsed_options
    assert options is not None
    if options.headless and not environment.host:
        raise ValueError("--host is missing; expected where the service answers, for example http://localhost:3000")
    if OpenUser in environment.user_classes:
        read_schedule(options.schedule)
    if isinstance(runner, LocalRunner):
        asked(options)
    if options.headless:  # on a page the host may still be changed, and shows at once what fails
        target = target_of(environment)
        State.version = as_served(target, served(target)).version


def target_of(environment: Environment) -> Target:
    assert environment.parsed_options is not None
    return Target(str(environment.host).rstrip("/"), environment.parsed_options.variant, State.version)


def asked(options: argparse.Namespace) -> tuple[list[Payload], list[Payload]]:
    """Images and tensors. Raises OSError, ValueError."""
    width, height = size = read_size(options.image_size)
    images = payloads(Path(options.images) if options.images else None, size, options.image_bytes)
    return images, tensors((1, height, width, 3))


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: Any) -> None:
    runner, options = environment.runner, environment.parsed_options
    assert runner is not None
    assert options is not None
    try:
        if not isinstance(runner, WorkerRunner):
            share_out(environment, runner)
        if not isinstance(runner, MasterRunner):
            images, pixels = asked(options)
            State.work = ClosedUser.work = OpenUser.work = Work(
                environment,
                target_of(environment),
                images,
                pixels,
                options.patience,
                State.share,
                lambda: hand_on(runner),
            )
    except (OSError, ValueError) as error:
        refuse(environment, error)
        gevent.spawn(runner.quit)  # once Locust has started what it is about to start


def refuse(environment: Environment, error: Exception) -> None:
    logging.getLogger("locust.main").error("%s", error)
    environment.process_exit_code = 2


def share_out(environment: Environment, runner: Runner) -> None:
    options = environment.parsed_options
    assert options is not None
    workers = active_workers(runner)
    State.gathering = Gathering(workers or [ALONE])
    if OpenUser not in environment.user_classes:
        return
    found = shares(options.schedule, options.seed, options.run_time or float("inf"), workers or [ALONE])
    State.share = found.get(ALONE, State.share)
    for worker in workers:
        runner.send_message("share", found[worker].to_dict(), worker)


def hand_on(runner: Runner) -> None:
    """What is new, to who gathers it."""
    if State.work is None:
        return
    if isinstance(runner, WorkerRunner):
        runner.send_message("load", report(State.work))
    else:
        take(ALONE, {"load": report(State.work)})


@events.report_to_master.add_listener  # type: ignore[untyped-decorator]
def add_to_report(data: dict[str, Any], **_: Any) -> None:
    if State.work is not None:
        data["load"] = report(State.work)


@events.worker_report.add_listener  # type: ignore[untyped-decorator]
def take(client_id: str, data: dict[str, Any]) -> None:
    if State.gathering is not None and "load" in data:
        State.gathering.take(client_id, data["load"])


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def finish(environment: Environment, **_: Any) -> None:
    assert environment.runner is not None
    hand_on(environment.runner)
    if State.gathering is not None:
        State.gathering.elapsed_s = time.perf_counter() - State.gathering.begun
    if environment.web_ui is not None:
        conclude(environment)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def finish_all(environment: Environment, **_: Any) -> None:
    """After Locust's own listener, which has a master's workers send their last reports."""
    if isinstance(environment.runner, LocalRunner):
        environment.runner.quit()
    conclude(environment)


def conclude(environment: Environment) -> None:
    """Write and print what was measured, unless it is all told; exit 1 where it is not what was asked for."""
    gathering, options = State.gathering, environment.parsed_options
    if gathering is None or options is None or (count := gathering.recording.statuses.total()) == State.told:
        return
    State.told = count
    target = target_of(environment)
    results = results_of(gathering, options, target, is_open=OpenUser in environment.user_classes)
    print(f"\n{target.variant} at {target.host}, by HdrHistogram\n{as_text(gathering.recording)}")
    for problem in filter(None, (results.turns[0].incomplete, results.turns[0].invalid)):
        logging.getLogger("locust.main").error("%s", problem)
        environment.process_exit_code = environment.process_exit_code or 1
    if options.results:
        Path(options.results).parent.mkdir(parents=True, exist_ok=True)
        results.write(Path(options.results))
        print(f"results: {options.results}")
