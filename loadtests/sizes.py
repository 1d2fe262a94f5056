"""Services of several sizes, workers times threads, side by side."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from loadtests.local_service import ServiceError, local_service
from loadtests.machine import usable_cores
from loadtests.serving_bench.processes import Tree

READY_WITHIN_S = 300.0  # of all at once, each with its own copy of everything on one GPU
LOOK_S = 0.1
FAILED = "this worker cannot open"  # the service's own words; the worker ends, and another is begun 10 s later


@dataclass(frozen=True, order=True)
class Size:
    """Written `4x2`: four workers of two threads each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers}x{self.threads}"


@dataclass(frozen=True, slots=True)
class Lane:
    """A service that is ready in all its workers, and what it took until then."""

    url: str
    tree: Tree
    ready_s: float


def read_sizes(text: str) -> tuple[Size, ...]:
    found = []
    for part in text.split(","):
        workers, _, threads = part.partition("x")
        if not (workers.isdecimal() and threads.isdecimal() and int(workers) and int(threads)):
            raise argparse.ArgumentTypeError(f"{part}: expected WORKERSxTHREADS, such as 2x4")
        found.append(Size(int(workers), int(threads)))
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text}: each size once")
    return tuple(found)


def default_sizes() -> tuple[Size, ...]:
    """One worker, one for every four cores and one for every two; where those are all one, one for each as well."""
    most = usable_cores()
    workers = {1, max(1, most // 4), max(1, most // 2)}
    workers |= {most} if len(workers) == 1 else set()
    return tuple(Size(number, math.ceil(most / number)) for number in sorted(workers))


def open_lanes(stack: ExitStack, variant: str, sizes: Sequence[Size]) -> dict[str, Lane]:
    """All at once: one after another, minutes would go by until many workers have opened a model on a GPU."""
    with ThreadPoolExecutor(len(sizes)) as pool:
        opening = [pool.submit(stack.enter_context, opened(variant, size)) for size in sizes]
    return {str(size): each.result() for size, each in zip(sizes, opening, strict=True)}


@contextmanager
def opened(variant: str, size: Size) -> Iterator[Lane]:
    """Ready in all its workers, of which the first alone would let it answer."""
    environment = {
        "SERVING_MODELS": variant, "SERVING_WORKERS": str(size.workers), "SERVING_THREADS": str(size.threads),
    }  # fmt: skip
    begun = time.perf_counter()
    with local_service(environment=environment, ready_within_s=READY_WITHIN_S) as service:
        while service.begun() < size.workers and FAILED not in service.log():
            if time.perf_counter() - begun > READY_WITHIN_S:
                raise ServiceError(f"{service.begun()} of {size.workers} workers began:\n{service.log()[-4000:]}")
            time.sleep(LOOK_S)
        if FAILED in service.log():
            raise ServiceError(f"{size}: not every worker opened {variant}; the log ends:\n{service.log()[-4000:]}")
        yield Lane(service.url, Tree(service.pid), time.perf_counter() - begun)
