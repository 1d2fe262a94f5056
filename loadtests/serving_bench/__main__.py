"""What HTTP costs: this service, a bare server, other frameworks and no server at all, in one interleaved run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from loadtests.command_line import positive, progress_bar
from loadtests.json_file import write_json
from loadtests.local_service import ServiceError
from loadtests.machine import usable_cores
from loadtests.serving_bench.artifacts import Artifact, ArtifactError, artifact_for
from loadtests.serving_bench.conditions import conditions
from loadtests.serving_bench.jpegs import sha256_of, write_jpegs
from loadtests.serving_bench.lanes import Opened, check_peers, open_lane
from loadtests.serving_bench.parity import strangers
from loadtests.serving_bench.picture import draw
from loadtests.serving_bench.plan import (
    ALL_CELLS,
    NETWORKS,
    Cell,
    Lane,
    PlanError,
    read_cells,
    read_lanes,
    start_of,
    turns_of,
)
from loadtests.serving_bench.processes import idle_shares
from loadtests.serving_bench.report import as_text, summary
from loadtests.serving_bench.turns import Turn, append, read, run_turn
from loadtests.serving_bench.wrk import WrkError, wrk_program

WARM_UP_S = 2  # of every lane in every cell, before its first round; left out of all figures
IDLE_WATCHED_S = 2.0
MUST_AGREE = (
    "commit",
    "threads",
    "machine",
    "packages",
    "peers_packages",
    "rounds",
    "starts",
    "turn_seconds",
    "artifacts",
    "jpegs",
)


class ResumeError(RuntimeError):
    """The turns so far are of another run."""


ERRORS = (ArtifactError, PlanError, ResumeError, ServiceError, WrkError, OSError)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        wrk_program()
        bench = Bench(options)
        bench.begin()
        bench.measure()
        bench.finish()
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from the last turn", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.serving_bench",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    top.add_argument(
        "--cells", default=",".join(map(str, ALL_CELLS)), metavar="NETWORK:PRECISION:CONCURRENCY,...", help="which"
    )
    top.add_argument("--lanes", default=",".join(Lane), metavar="LANE,...", help="which; ours is always there")
    top.add_argument("--rounds", type=positive(int), default=40)
    top.add_argument(
        "--starts", type=positive(int), default=8, help="of every server, each for its share of the rounds"
    )
    top.add_argument(
        "--turn-seconds", type=positive(int),
        help="of each lane in a round; default: 2 for ResNet-20, 6 for ResNet-50, "
        "twice that beyond 16 connections",
    )  # fmt: skip
    top.add_argument(
        "--threads", type=positive(int), default=usable_cores(), help="images decoded and inferred side by side"
    )
    top.add_argument("--bentoml-home", type=Path, help="store with the models; default: one below --out, filled here")
    top.add_argument("--out", type=Path, default=Path("build/bench/serving"), help="folder of what was measured")
    top.add_argument("--resume", action="store_true", help="go on with the turns that are there")
    return top


@dataclass
class Bench:
    """A run: its plan, and what it has found so far."""

    options: argparse.Namespace
    turns: list[Turn] = field(default_factory=list, init=False)
    known: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.cells: tuple[Cell, ...] = read_cells(self.options.cells)
        self.lanes: tuple[Lane, ...] = read_lanes(self.options.lanes)
        self.out: Path = self.options.out
        self.log = self.out / "turns.jsonl"

    def begin(self) -> None:
        """Artifacts and pictures are there, and the conditions are on disk, before anything is measured."""
        check_peers(self.lanes)
        self.out.mkdir(parents=True, exist_ok=True)
        home: Path = self.options.bentoml_home or self.out / "store"
        self.jpegs = {name: write_jpegs(self.out / "jpegs" / name, network) for name, network in NETWORKS.items()}
        self.artifacts: dict[tuple[str, str], Artifact] = {}
        for cell in self.cells:
            if model(cell) not in self.artifacts:
                found = artifact_for(cell, NETWORKS[cell.network], home, self.jpegs[cell.network])
                self.artifacts[model(cell)] = found
        self.known = conditions(self.lanes, self.options.threads) | {
            "rounds": self.options.rounds,
            "starts": self.options.starts,
            "turn_seconds": self.options.turn_seconds or {str(cell): cell.turn_s for cell in self.cells},
            "warm_up_seconds": WARM_UP_S,
            "artifacts": {":".join(key): artifact.tag for key, artifact in self.artifacts.items()},
            "jpegs": {name: sha256_of(paths) for name, paths in self.jpegs.items()},
            "idle_share": {},
            "not_measured": {},
        }
        self.carry_on() if self.options.resume else self.start_anew()
        write_json(self.out / "conditions.json", self.known)

    def carry_on(self) -> None:
        path = self.out / "conditions.json"
        if not self.log.exists() or not path.exists():
            return
        before = json.loads(path.read_text())
        other = [f"{name} was {before.get(name)}" for name in MUST_AGREE if before.get(name) != self.known[name]]
        if other:
            raise ResumeError(
                f"{self.log}: of another run, {'; '.join(other)}. Leave --resume out, or name another --out"
            )
        self.turns = list(read(self.log))
        self.known |= {name: before[name] for name in ("begun", "load_average_before", "idle_share", "not_measured")}

    def start_anew(self) -> None:
        """What an earlier run measured is kept once."""
        if self.log.exists():
            self.log.replace(self.out / "turns.previous.jsonl")

    def measure(self) -> None:
        with progress_bar(len(self.missing(self.cells)), "measuring", "turn") as progress:
            for key, group in groupby(self.cells, model):
                cells = tuple(group)
                for start in range(self.options.starts):
                    if not self.missing(cells, start):
                        continue
                    with ExitStack() as stack:
                        opened = self.open_lanes(key, stack)
                        for cell in cells:
                            for turn in self.run_cell(cell, start, opened):
                                self.turns.append(turn)
                                append(self.log, turn)
                                progress.update()

    def missing(self, cells: Sequence[Cell], start: int | None = None) -> list[tuple[Cell, int, Lane]]:
        """Of one start, or of all."""
        rounds, starts = self.options.rounds, self.options.starts
        done = {(turn.cell, turn.round, turn.lane) for turn in self.turns}
        turns = [turn for turn in turns_of(rounds, self.lanes) if start in {None, start_of(turn[0], rounds, starts)}]
        return [(cell, *turn) for cell in cells for turn in turns if (str(cell), *turn) not in done]

    def open_lanes(self, key: tuple[str, str], stack: ExitStack) -> dict[Lane, Opened]:
        """All that start and answer alike; the others are reported and not measured."""
        opened: dict[Lane, Opened] = {}
        reasons: dict[Lane, str] = {}
        jpegs = self.jpegs[key[0]]
        for lane in self.lanes:
            if lane is Lane.OURS_AGAIN:
                continue
            try:
                opened[lane] = stack.enter_context(open_lane(lane, self.artifacts[key], jpegs, self.options.threads))
            except ServiceError as error:
                if lane is Lane.OURS:
                    raise
                reasons[lane] = str(error)
        reasons |= strangers(opened, jpegs)
        opened = {lane: each for lane, each in opened.items() if lane not in reasons}
        self.known["not_measured"][":".join(key)] = reasons
        time.sleep(1)  # what starting left to do
        idle = idle_shares([each.tree for each in opened.values()], IDLE_WATCHED_S)
        self.known["idle_share"][":".join(key)] = dict(zip(opened, idle, strict=True))
        write_json(self.out / "conditions.json", self.known)
        for lane, reason in reasons.items():
            print(f"{':'.join(key)}, {lane}: not measured: {reason}", file=sys.stderr, flush=True)
        if Lane.OURS_AGAIN in self.lanes:
            opened[Lane.OURS_AGAIN] = opened[Lane.OURS]
        return {lane: opened[lane] for lane in Lane if lane in opened}

    def run_cell(self, cell: Cell, start: int, opened: dict[Lane, Opened]) -> Iterator[Turn]:
        jpegs, seconds = self.jpegs[cell.network], self.options.turn_seconds or cell.turn_s
        planned = [(number, lane) for _, number, lane in self.missing([cell], start) if lane in opened]
        for lane in dict.fromkeys(lane for _, lane in planned):
            run_turn(cell, -1, lane, opened, jpegs, min(WARM_UP_S, seconds), start)
        for number, lane in planned:
            yield run_turn(cell, number, lane, opened, jpegs, seconds, start)

    def finish(self) -> None:
        results = []
        for cell in self.cells:
            turns = [turn for turn in self.turns if turn.cell == str(cell)]
            if turns:
                results.append(summary(cell, turns, self.known["not_measured"].get(":".join(model(cell)), {})))
                print(as_text(results[-1]) + "\n")
        finished = {"finished": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        write_json(self.out / "serving.json", {"conditions": self.known | finished, "cells": results})
        draw(results, self.out / "serving.svg")
        print(
            f"medians, ratios paired by round, 95 % intervals over starts, or rounds where those are too few; "
            f"{self.known['machine']}"
        )
        print(f"report: {self.out / 'serving.json'}, {self.out / 'serving.svg'}")


def model(cell: Cell) -> tuple[str, str]:
    return cell.network, cell.precision


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no server outlives the run
    sys.exit(main())
