"""Whether the service's memory grows: resident memory after 20,000 requests and after half a million.

python -m loadtests.serving_bench.endurance
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from loadtests.command_line import positive, progress_bar
from loadtests.json_file import write_json
from loadtests.machine import machine
from loadtests.serving_bench.artifacts import artifact_for
from loadtests.serving_bench.jpegs import write_jpegs
from loadtests.serving_bench.lanes import our_service
from loadtests.serving_bench.plan import NETWORKS, Cell

PIECE_S = 5
MOST_GROWTH = 1.03


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    cell, network = Cell("resnet20", "fp32", options.connections), NETWORKS["resnet20"]
    jpegs = write_jpegs(options.out.parent / "endurance" / "jpegs", network)
    artifact = artifact_for(cell, network, options.out.parent / "endurance" / "store", jpegs)
    samples: list[tuple[int, int]] = []
    done = failed = 0
    with (
        our_service(artifact, options.threads) as server,
        progress_bar(options.requests, "answered", "request") as progress,
    ):
        while done < options.requests:
            load = server.load(jpegs, PIECE_S, options.connections)
            done, failed = done + load.requests, failed + sum(load.failures.values())
            samples.append((done, server.tree.rss_bytes()))
            progress.update(load.requests)
    early = next(rss for count, rss in samples if count >= min(options.early, done))
    growth = samples[-1][1] / early
    result = {
        "measure": "resident bytes of the whole service by requests answered",
        "samples": samples,
        "growth": growth,
        "failed": failed,
        "connections": options.connections,
        "machine": machine(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }
    write_json(options.out, result)
    print(
        f"{early / 1e6:.1f} MB after {options.early} requests, {samples[-1][1] / 1e6:.1f} MB after {done}: "
        f"{growth:.3f} times as much, {failed} failed; at most {MOST_GROWTH}: "
        f"{'holds' if growth <= MOST_GROWTH else 'does not hold'}"
    )
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.serving_bench.endurance", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--requests", type=positive(int), default=500_000)
    top.add_argument("--early", type=positive(int), default=20_000)
    top.add_argument("--connections", type=positive(int), default=16)
    top.add_argument("--threads", type=positive(int), default=2)
    top.add_argument("--out", type=Path, default=Path("build/bench/endurance.json"))
    return top


if __name__ == "__main__":
    sys.exit(main())
