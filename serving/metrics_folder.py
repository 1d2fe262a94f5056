"""The folder of files in which the workers of a service count for Prometheus."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from bentoml._internal.configuration.containers import BentoMLContainer  # the folder has no public setting
from prometheus_client.multiprocess import mark_process_dead


def keep_apart() -> None:
    """Before the workers start: their files in a folder of this service alone, which is gone when the service is.

    BentoML's is one for all services of a user, and each empties it when it starts.
    """
    folder = Path(tempfile.gettempdir()) / f"preflight-metrics-{secrets.token_hex(8)}"
    BentoMLContainer.prometheus_multiproc_dir.set(str(folder))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def forget_the_dead() -> None:
    """What a killed worker had in flight is in flight no more; whoever takes its place says so."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for path in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = path.stem.rpartition("_")[2]
        if pid.isdecimal() and not is_alive(int(pid)):
            mark_process_dead(int(pid))  # type: ignore[no-untyped-call]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
