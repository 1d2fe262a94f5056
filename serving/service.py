"""The BentoML service: `bentoml serve`, `bentoml build`.

One worker opens every variant once. BentoML's tracing and access log are off: each costs a share of what a
small network takes to answer.
"""

from __future__ import annotations

import gc
import logging
import os

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # BentoML reads it once, when it first might report usage

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException

from export.artifact import ArtifactError, read_manifest
from export.cuda import DeviceError, UnavailableError
from export.to_engine import EngineError
from serving.classifier import Classifier
from serving.config import ConfigError, exact_tags, read_settings
from serving.http_api import HttpApi
from serving.keys import Keys, KeysError, read_keys
from serving.metrics import metrics
from serving.opened import Opened
from serving.runners.choice import FLAVOURS, choose
from serving.runners.machine import Machine

TIMEOUT_S = 30  # BentoML's, behind our own deadlines; it keeps a timer this long for every request, answered or not

CANNOT_RUN = (ArtifactError, DeviceError, EngineError, KeysError, UnavailableError, OSError)

logger = logging.getLogger("bentoml.serve")
opened = Opened()


@bentoml.service(
    name="preflight",
    workers=1,
    traffic={"timeout": TIMEOUT_S},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
)
class Preflight:
    """Image classification by pre- and post-activation ResNets. Routes: /classify, /variants, /readyz, /docs.json."""

    def __init__(self) -> None:
        settings = read_settings(os.environ)
        try:
            opened.keys = Keys(settings.api_keys_file) if settings.api_keys_file is not None else None
            opened.classifier = Classifier(exact_tags(settings), settings, Machine())
        except CANNOT_RUN as error:
            logger.error("not ready, and will not be: %s", error)
            return
        metrics().describe(opened.classifier.served)
        opened.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="classify")
        # What is alive now stays alive: without this, full collections would walk all of it, and requests wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def pin() -> None:
        """Once, before any worker: settle versions and runtimes and check them, so that all workers open the same."""
        try:
            settings, machine = read_settings(os.environ), Machine()
            if settings.api_keys_file is not None:
                read_keys(settings.api_keys_file)
            tags = exact_tags(settings)
            for tag in tags:
                model = bentoml.models.get(tag)
                folder = Path(model.path)
                manifest = read_manifest(folder, str(model.tag.version))
                choice = choose(folder, manifest, settings, machine)
                engine_left = manifest.engine is not None and choice.runtime not in FLAVOURS
                level = logging.WARNING if engine_left else logging.INFO
                logger.log(level, "%s: served by %s", tag, choice)
        except (ConfigError, *CANNOT_RUN) as error:
            raise BentoMLException(str(error)) from error  # its command line shows one line instead of a traceback
        os.environ["SERVING_MODELS"] = ",".join(tags)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        classifier, opened.classifier = opened.classifier, None
        if opened.pool is not None:
            opened.pool.shutdown()
        if classifier is not None:
            classifier.close()

    async def __is_ready__(self) -> bool:
        return opened.classifier is not None and opened.classifier.fault is None


Preflight.add_asgi_middleware(HttpApi, opened=opened)  # type: ignore[attr-defined]  # the decorator made it a Service
