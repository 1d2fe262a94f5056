"""The BentoML service: `bentoml serve`, `bentoml build`.

Every worker opens every variant once. BentoML's tracing and access log are off: each costs a share of what a
small network takes to answer.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from pathlib import Path
from typing import Any, NoReturn

import bentoml
from bentoml._internal.utils.analytics.usage_stats import do_not_track  # what it remembers, nothing public forgets
from bentoml.exceptions import BentoMLException

from export.artifact import ArtifactError, Manifest, read_manifest
from export.cuda import DeviceError, UnavailableError
from export.to_engine import EngineError
from serving.classifier import Classifier
from serving.config import ConfigError, Settings, exact_tags, read_settings, workers_or_default
from serving.cores import let_inference_finish, sizing
from serving.drain import drain_on_sigterm, leave_with_the_supervisor
from serving.http_api import HttpApi
from serving.keys import Keys, KeysError, read_keys
from serving.logs import set_up
from serving.metrics import metrics
from serving.metrics_folder import keep_apart
from serving.opened import Opened
from serving.protocol import bound_connections
from serving.routing import routing
from serving.runners.choice import FLAVOURS, choose
from serving.runners.machine import Machine

CANNOT_RUN = (ArtifactError, DeviceError, EngineError, KeysError, UnavailableError, OSError)
PUBLISHED_EVERY_S = 1.0

# Of a container, unless bentofile.yaml names a base image. Without a distribution BentoML adds no compilers and no git.
IMAGE = bentoml.images.Image(base_image="python:3.11-slim-bookworm", distro="none", python_version="3.11")

logger = logging.getLogger("bentoml.serve")
opened = Opened()
keep_apart()
do_not_track.cache_clear()  # `bentoml serve` asked the environment before this was imported, and `export` with it


class Service(bentoml.Service[Any]):  # type: ignore[misc]  # resolved lazily, as all that BentoML exports
    """BentoML's, with our routes in front of its application."""

    def to_asgi(self, is_main: bool = True) -> Any:
        api = HttpApi(super().to_asgi(is_main), opened)
        bound_connections(read_settings(os.environ), api.refusal)
        return api


@bentoml.service(
    name="preflight",
    service_class=Service,
    image=IMAGE,
    workers=workers_or_default(os.environ),
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
)
class Preflight:
    """Image classification by pre- and post-activation ResNets. `/docs.json` describes the routes."""

    def __init__(self) -> None:
        settings = read_settings(os.environ)
        set_up(settings.log_format)
        try:
            opened.keys = Keys(settings.api_keys_file) if settings.api_keys_file is not None else None
            classifier = Classifier(exact_tags(settings), settings, Machine())
            for name, served in classifier.served.items():
                runner, precision = served.runner, served.manifest.precision
                metrics().describe(name, served.version, runner.runtime, runner.device, precision)
        except (ConfigError, *CANNOT_RUN) as error:
            leave(error)
        opened.open(classifier)
        if any(served.runner.device == "cpu" for served in classifier.served.values()):
            let_inference_finish()
        drain_on_sigterm(opened, settings.drain_ms / 1e3)
        if bentoml.server_context.service_type is not None:  # this is a worker of its, and nobody's own process
            leave_with_the_supervisor()
        publish_regularly(asyncio.get_running_loop())
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
            set_up(settings.log_format)
            if settings.api_keys_file is not None:
                read_keys(settings.api_keys_file)
            tags = exact_tags(settings)
            manifests = [check(tag, settings, machine) for tag in tags]
            routes = routing(settings, {manifest.variant: manifest for manifest in manifests})
        except (ConfigError, *CANNOT_RUN) as error:
            raise BentoMLException(str(error)) from error  # its command line shows one line instead of a traceback
        os.environ["SERVING_MODELS"] = ",".join(tags)
        logger.info("requests that name no variant: %s", routes)
        logger.info("%s", sizing(settings.workers, settings.threads, settings.intra_op_threads))

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        opened.close()

    async def __is_ready__(self) -> bool:
        return opened.is_ready


def leave(error: Exception) -> NoReturn:
    """A worker that opens nothing: the others share what it would have answered, and the supervisor tries again.

    Without uvicorn's farewell, which is a traceback.
    """
    logger.error("this worker cannot open what it is to serve, and ends: %s", error)
    logging.shutdown()
    os._exit(1)


def check(tag: str, settings: Settings, machine: Machine) -> Manifest:
    """An artifact's hashes, and that something here runs it."""
    model = bentoml.models.get(tag)
    folder = Path(model.path)
    manifest = read_manifest(folder, str(model.tag.version))
    choice = choose(folder, manifest, settings, machine)
    engine_left = manifest.engine is not None and choice.runtime not in FLAVOURS
    logger.log(logging.WARNING if engine_left else logging.INFO, "%s: served by %s", tag, choice)
    return manifest


def publish_regularly(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(PUBLISHED_EVERY_S, publish_regularly, loop)  # first: a full disk now may have room then
    opened.publish()
