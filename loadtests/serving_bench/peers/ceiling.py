"""The ceiling: decode and infer in a loop on as many threads as a server has, with no server around it.

Reads one JSON command a line, and answers each with one line: `{"answer": FILE}` classifies, and
`{"seconds": S, "threads": N}` counts what N threads get done.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.serving_bench.peers.graph import Graph


def main(paths: Sequence[str]) -> None:
    graph, images = Graph(), [Path(path).read_bytes() for path in paths]
    reply({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        if "answer" in command:
            reply({"predictions": graph.classify(Path(command["answer"]).read_bytes())})
        else:
            reply(work(graph, images, command["seconds"], command["threads"]))


def reply(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


def work(graph: Graph, images: Sequence[bytes], seconds: float, threads: int) -> dict[str, Any]:
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda first: loop(graph, images, first, begun + seconds), range(threads)))
    taken = [duration for part in parts for duration in part]
    p50, p99 = np.percentile(taken, [50, 99]) * 1e6
    return {
        "requests": len(taken), "duration_us": (time.perf_counter() - begun) * 1e6,
        "latency_p50_us": float(p50), "latency_p99_us": float(p99), "errors": {},
    }  # fmt: skip


def loop(graph: Graph, images: Sequence[bytes], first: int, until: float) -> list[float]:
    """Seconds that each image took; at least one."""
    taken: list[float] = []
    for number in itertools.count(first):
        begun = time.perf_counter()
        graph.logits(graph.pixels(images[number % len(images)]))
        ended = time.perf_counter()
        taken.append(ended - begun)
        if ended >= until:
            return taken
    raise AssertionError("itertools.count ended")


if __name__ == "__main__":
    main(sys.argv[1:])
