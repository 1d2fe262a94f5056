"""Engines that were built before, by all that decides what they are. Torch-free.

The default folder is the user's own: an engine is code that the GPU's driver will run.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from export.artifact import Engine
from models.atomic_file import write_atomically

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/preflight/engines`, in `~/.cache` by default, in a temporary folder for a user without home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # any user id of a container
        cache = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return cache / "preflight" / "engines"


class EngineCache:
    """A folder of engines `<key>-<sha256>.engine`; what is damaged is not found, and is built again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, engine: Engine) -> bytes | None:
        if not is_own(self.folder):
            return None
        for path in self.folder.glob(f"{key_of(engine)}-*.engine"):
            try:
                content = path.read_bytes()
            except OSError as error:
                logger.warning("%s is not used (%s); what it holds is built again", path, error)
                continue
            if hashlib.sha256(content).hexdigest() == path.stem.rpartition("-")[2]:
                return content
        return None

    def keep(self, engine: Engine, content: bytes) -> None:
        remember(self.folder / f"{key_of(engine)}-{hashlib.sha256(content).hexdigest()}.engine", content)

    @contextmanager
    def alone(self, engine: Engine) -> Iterator[None]:
        """Who wants the same engine waits: workers would all build it, and time its kernels beside each other."""
        with ExitStack() as stack:
            with suppress(OSError):  # as what cannot be kept, it costs time
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if is_own(self.folder):
                    file = stack.enter_context((self.folder / f"{key_of(engine)}.lock").open("w"))
                    fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed, be it by a kill
            yield

    def timing(self, engine: Engine) -> Path:
        """The file of TensorRT's own measurements of kernels, which shorten the next build."""
        gpu = re.sub(r"\W+", "-", f"{engine.gpu}-{engine.compute_capability}")
        return self.folder / f"{engine.flavour}-{engine.version}-{gpu}.timing"

    def kernels(self, content: bytes, compute_capability: str) -> Path:
        """The file of what TensorRT-RTX compiled for an engine on this GPU, which shortens the next start."""
        return self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}-{compute_capability}.kernels"


def is_own(folder: Path) -> bool:
    """Whether nobody but this user can put files there: an engine from anybody else is code from anybody else."""
    try:
        status = folder.stat()
    except OSError:  # absent, or not to be looked at
        return False
    if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    logger.warning("%s is not used: it has to belong to this user, and to be writable for nobody else", folder)
    return False


def known(path: Path) -> bytes:
    """What was remembered; nothing where that cannot be had, or comes from others."""
    try:
        return path.read_bytes() if is_own(path.parent) else b""
    except OSError:
        return b""


def remember(path: Path, content: bytes) -> None:
    """A file that cannot be kept costs time at the next start, and nothing else."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        logger.warning("%s is not kept (%s); the next start takes as long", path, error)


def key_of(engine: Engine) -> str:
    """Digest of the graph, flavour, version, GPU and options."""
    decisive = engine.model_dump_json(exclude={"parity", "accuracy", "not_measured"})
    return hashlib.sha256(decisive.encode()).hexdigest()[:32]
