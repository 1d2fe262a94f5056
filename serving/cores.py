"""How many processor cores this process may use, and how they are shared out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CORES_A_WORKER = 2  # on two, a second worker gains a small network little (docs/serving.md); more share Python's lock
CORES_A_WORKER_ON_GPU = (
    4  # of 16, four workers answer 2.1 to 2.6 times as many requests as one, eight fewer (docs/gpu.md)
)
GPU_BYTES_A_WORKER = 11 << 30  # each opens models of its own: a ResNet-50 for batches up to 64 takes 3.1 GiB


def cores() -> float:
    """What the affinity of this process and its control groups allow; a container may have half a core."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def quotas(groups: Path, mounted: Path) -> Iterator[float]:
    """Cores that the control groups of a process allow (cgroups(7)), from its own up to what `mounted` shows.

    In a container that is its own; on a host it may be that of a systemd unit with `CPUQuota=`, or of a slice above.
    """
    lines = groups.read_text().splitlines() if groups.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / "cpu" if controllers else mounted  # a link where it is mounted with others, in either order
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):  # no limit, no such controller, or a path that only the host knows
                if controllers:
                    numbers = [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
                else:
                    numbers = (group / "cpu.max").read_text().split()
                quota, period = map(int, numbers)
                if quota > 0:
                    yield quota / period
            if group == root:
                break


def default_workers(gpu_bytes: int | None = None) -> int:
    """For a CPU, or for a GPU with so much memory."""
    if gpu_bytes is None:
        return max(1, round(cores() / CORES_A_WORKER))
    return max(1, min(round(cores() / CORES_A_WORKER_ON_GPU), gpu_bytes // GPU_BYTES_A_WORKER))


def default_threads(workers: int) -> int:
    """Of each worker."""
    return max(1, math.ceil(cores() / workers))


def let_inference_finish() -> None:
    """Has the calling thread, the event loop's, wait for a core instead of interrupting what runs there.

    Linux lets a thread that wakes interrupt another; an event loop wakes several times for each request, and every time
    an inference on the same core begins again with cold caches. Under SCHED_BATCH (sched(7)) it waits until a core is
    free or a slice has ended, 3 ms or so, and then does what has gathered, at once. Nothing changes while cores idle.
    Threads that it starts later inherit it: those that infer have to be there before.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a sandbox may forbid it, or not know it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def sizing(workers: int, threads: int, intra_op_threads: int | None) -> str:
    """One line for the log."""
    return (
        f"{cores():g} cores: {workers} workers with {threads} threads each, {intra_op_threads or 1} an inference; "
        f"by default a worker for every {CORES_A_WORKER} cores, on a GPU for every {CORES_A_WORKER_ON_GPU} and every "
        f"{GPU_BYTES_A_WORKER >> 30} GiB of its memory, and a thread for every core "
        "(SERVING_WORKERS, SERVING_THREADS, SERVING_INTRA_OP_THREADS)"
    )
