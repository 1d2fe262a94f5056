"""The folder of files in which the workers of a service count for Prometheus.

They are mapped to memory: who counts where a full disk has no room for the page is killed, by SIGBUS. So a worker
takes the room as it begins. What those have counted that are gone is added up in one file, or every answer of
`/metrics` would read more of them.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from bentoml._internal.configuration.containers import BentoMLContainer  # the folder has no public setting
from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

ROOM = {  # bytes of a worker's files, by what prometheus_client names them; of histograms, enough for ten variants
    "counter": 64 << 10,
    "histogram": 256 << 10,
    "gauge_livesum": 64 << 10,
    "gauge_livemax": 64 << 10,
}
ADDED_UP = ("counter", "histogram")
DAMAGED = (struct.error, RuntimeError, ValueError)


def keep_apart() -> None:
    """Before the workers start: their files in a folder of this service alone, which is gone when the service is.

    BentoML's is one for all services of a user, and each empties it when it starts.
    """
    folder = Path(tempfile.gettempdir()) / f"preflight-metrics-{secrets.token_hex(8)}"
    BentoMLContainer.prometheus_multiproc_dir.set(str(folder))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def shared_folder() -> Path | None:
    """None in a process that counts for itself."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


def make_room() -> None:
    """For what this worker will count. Raises OSError where there is none."""
    if (folder := shared_folder()) is not None:
        folder.mkdir(parents=True, exist_ok=True)  # whoever tidies up may have removed it
        for kind, size in ROOM.items():
            fill(folder / f"{kind}_{os.getpid()}.db", size)


def fill(path: Path, size: int) -> None:
    """A file of so many bytes that are on the disk, and not only promised."""
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def forget_the_dead() -> None:
    """For who takes a killed worker's place: its counts are added to those of others before it, its files go."""
    if (folder := shared_folder()) is None:
        return
    with locked(folder, fcntl.LOCK_EX):
        for path, kind in of_the_dead(folder):
            if kind in ADDED_UP:
                add(path, folder / f"{kind}_gone.db", ROOM[kind])
            path.unlink()


def of_the_dead(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of workers that are gone, and of what kind each is."""
    for path in folder.glob("*_*.db"):
        kind, _, pid = path.stem.rpartition("_")
        if kind in ROOM and pid.isdecimal() and not is_alive(int(pid)):
            yield path, kind


def add(path: Path, to: Path, size: int) -> None:
    fill(to, size)
    total = MmapedDict(str(to))  # type: ignore[no-untyped-call]
    with suppress(*DAMAGED):  # it may have been killed as it made the file
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            total.write_value(key, total.read_value(key)[0] + value, timestamp)  # type: ignore[no-untyped-call]
    total.close()  # type: ignore[no-untyped-call]


def collected(folder: Path) -> Iterable[Metric]:
    """What all workers have counted, those that are gone included, and what those that live have in hand.

    A file that is still empty is left out.
    """
    with locked(folder, fcntl.LOCK_SH):
        over = {path for path, kind in of_the_dead(folder) if kind not in ADDED_UP}
        files = [str(path) for path in folder.glob("*.db") if path not in over and path.stat().st_size]
        found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return found


@contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    """Nobody reads while counts move from one file to another."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, how)
        yield


def is_alive(pid: int) -> bool:
    """A killed process may be there until its parent takes note of it, as a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
