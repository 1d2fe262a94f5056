"""A TensorRT engine behind the promise of `Runner`."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from export.artifact import ENGINE_FILE, GRAPH_FILE, Engine, Manifest, Runtime
from export.cuda import DeviceError
from export.engine_cache import EngineCache
from export.engine_session import EngineSession, misfit, tuned_elsewhere
from export.to_engine import profile_for, rebuild_with, target, to_engine
from serving.config import Engines, Settings
from serving.runners.machine import Machine

logger = logging.getLogger("bentoml.serve")


class TensorRtRunner:
    """One session, and so one stream; threads take turns."""

    def __init__(self, session: EngineSession, engine: Engine) -> None:
        self.session = session
        self.engine = engine
        self.lock = Lock()
        self.fault: str | None = None
        self.runtime = f"{engine.flavour} {engine.version}"
        self.device = f"cuda:0, {session.cuda}"

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self.lock:
            try:
                return self.session.run(images)
            except DeviceError as error:
                self.fault = str(error)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.session.close()


def open_tensorrt(
    folder: Path, manifest: Manifest, flavour: Runtime, settings: Settings, machine: Machine
) -> TensorRtRunner:
    """The artifact's engine, or, where settings allow it and that does not fit, one built here and now of its graph."""
    cuda, tensorrt = machine.gpu(), machine.tensorrt(flavour)
    cache = EngineCache(settings.engine_cache)
    engine = manifest.engine if manifest.runtime is flavour else None
    if engine is not None and (
        settings.engines is Engines.AS_EXPORTED or not (misfit(engine, cuda, tensorrt) or tuned_elsewhere(engine, cuda))
    ):
        path = folder / ENGINE_FILE
        content = path.read_bytes()
    else:
        path = folder / GRAPH_FILE
        begun = time.perf_counter()
        logger.info("%s: building an engine by %s; this can take minutes", manifest.variant, flavour)
        profile = engine.profile if engine is not None else profile_for(manifest.max_batch_size)
        here = target(flavour, cuda.compute_capability, cuda)
        content, engine = to_engine(path, flavour, profile, here, cache)
        engine = engine.model_copy(update={"not_measured": "built when the service started"})
        logger.info("%s: engine ready after %.1f s", manifest.variant, time.perf_counter() - begun)
    session = EngineSession(
        content, engine, cuda, tensorrt, source=str(path), rebuild=rebuild_with(manifest, cuda),
        kernels=cache.kernels(content, cuda.compute_capability),
    )  # fmt: skip
    return TensorRtRunner(session, engine)
