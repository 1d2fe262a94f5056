"""The ceiling: decode and infer in a loop on as many threads as a server has, with no server around it.

Reads one JSON command a line, and answers each with one line: `{"answer": FILE}` classifies, and
`{"seconds": S, "threads": N}` counts what N threads have done when the time is up. As with servers, which are asked by
clients that then leave, what is unfinished at that moment counts for nothing.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
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
            work(graph, images, command["seconds"], command["threads"])


def reply(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


def work(graph: Graph, images: Sequence[bytes], seconds: float, threads: int) -> None:
    """Replies as the time is up, when whoever asked looks at the CPU time, and returns once the rest has ended."""
    until = time.perf_counter() + seconds
    taken: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        loops = [pool.submit(loop, graph, images, first, until, taken.append) for first in range(threads)]
        time.sleep(seconds)
        for each in loops:
            if each.done():
                each.result()  # raises what failed
        if not (done := list(taken)):
            raise RuntimeError(f"no image in {seconds} s; make turns longer")
        p50, p99 = np.percentile(done, [50, 99]) * 1e6
        reply({
            "requests": len(done), "duration_us": seconds * 1e6,
            "latency_p50_us": float(p50), "latency_p99_us": float(p99), "errors": {},
        })  # fmt: skip


def loop(graph: Graph, images: Sequence[bytes], first: int, until: float, keep: Callable[[float], None]) -> None:
    """Keeps the seconds that each image took."""
    for number in itertools.count(first):
        begun = time.perf_counter()
        graph.logits(graph.pixels(images[number % len(images)]))
        ended = time.perf_counter()
        if ended >= until:
            return
        keep(ended - begun)


if __name__ == "__main__":
    main(sys.argv[1:])
