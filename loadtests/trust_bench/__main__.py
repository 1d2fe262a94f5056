"""Command line of the benchmark of the load tests themselves."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loadtests.command_line import progress_bar
from loadtests.findings import Outcome
from loadtests.json_file import write_json
from loadtests.local_service import ServiceError
from loadtests.machine import machine
from loadtests.trust_bench import capacity, comparisons, percentiles, stall
from loadtests.trust_bench.measure import Measure

GROUPS: dict[str, tuple[float, Callable[[], Iterator[Measure]]]] = {
    "percentiles": (percentiles.SECONDS, percentiles.measures),
    "stall": (stall.SECONDS, stall.measures),
    "comparisons": (comparisons.SECONDS, comparisons.measures),
    "capacity": (capacity.SECONDS, capacity.measures),
}
STATUS = {Outcome.HOLDS: 0, Outcome.UNDECIDED: 3, Outcome.FAILS: 1}  # of the process; the last that occurs counts


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    begun, measures = conditions(), dict[str, Measure]()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        for measure in measured(options.only):
            measures[measure.name] = measure
            write(options.out, begun, measures.values())
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured follows", file=sys.stderr)
        return 130
    finally:
        for measure in measures.values():
            print(f"{measure.outcome:14} {measure.name}\n{'':14} {measure.said}; expected {measure.claim}")
        if measures:
            print(f"figures: {options.out}")
    return [STATUS[outcome] for outcome in STATUS if outcome in {measure.outcome for measure in measures.values()}][-1]


def measured(groups: Iterable[str]) -> Iterator[Measure]:
    """A measure that takes long is yielded again as it grows. Progress is in seconds, as they were estimated."""
    with progress_bar(round(sum(GROUPS[group][0] for group in groups)), "measuring", "s") as progress:
        reached = 0.0
        for group in groups:
            seconds, measures = GROUPS[group]
            progress.set_description(group)
            begun = time.monotonic()
            for measure in measures():
                advance(progress, reached + min(time.monotonic() - begun, seconds))
                yield measure
            reached += seconds
            advance(progress, reached)


def advance(progress: tqdm[Any], seconds: float) -> None:
    progress.update(round(seconds) - progress.n)


def conditions() -> dict[str, Any]:
    return {
        "machine": f"{machine()}; server and generator share it",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("gevent", "hdrhistogram", "httptools", "numpy", "uvloop")},
        "load_average": os.getloadavg(),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def write(path: Path, begun: dict[str, Any], measures: Iterable[Measure]) -> None:
    """Whole or not at all."""
    content = {
        "conditions": {**begun, "finished": time.strftime("%Y-%m-%d %H:%M:%S%z")},
        "measures": [asdict(measure) for measure in measures],
    }
    write_json(path, content)


def parser() -> argparse.ArgumentParser:
    minutes = sum(seconds for seconds, _ in GROUPS.values()) / 60
    top = argparse.ArgumentParser(
        prog="python -m loadtests.trust_bench",
        description=f"Measure whether load tests find what is known, against servers with injected delays: about "
        f"{minutes:.0f} minutes. Exit status: 0 where all holds, 1 where something does not, 3 where something is "
        "undecided.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    top.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="measure these")
    top.add_argument("--out", type=Path, default=Path("build/bench/trust.json"), help="file of figures")
    return top


if __name__ == "__main__":
    sys.exit(main())
