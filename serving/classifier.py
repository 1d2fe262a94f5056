"""The opened variants, and what a request wants of one: decoded, inferred, answered."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import bentoml
import numpy as np
from numpy.typing import NDArray

from export.artifact import GRAPH_FILE, Manifest, read_manifest
from models.pixels import FORMATS, ImageError, ImageTooLargeError, read_pixels, read_small_jpeg
from serving.answers import Classification, Explanation, Variant, Variants
from serving.batching import Batches
from serving.config import Batching, Settings
from serving.errors import RequestError
from serving.explainer import Explainer, explained
from serving.predictions import most_probable
from serving.routing import routing
from serving.runners.base import Runner
from serving.runners.choice import Choice, choose, open_on_cpu, open_with
from serving.runners.machine import Machine
from serving.shares import Shares, worth_a_batch
from serving.spread import SPINNING_US, Spread, seconds_alone
from serving.threads import Threads
from serving.work import Lane, Moments, Work

logger = logging.getLogger("bentoml.serve")


@dataclass(frozen=True, slots=True)
class Served:
    """An artifact, opened."""

    version: str
    manifest: Manifest
    runner: Runner
    choice: Choice
    lane: Lane
    explainer: Explainer


class Classifier:
    """Several variants behind one door. Opening it runs a warm-up inference on each."""

    def __init__(self, tags: tuple[str, ...], settings: Settings, machine: Machine) -> None:
        self.settings, self.machine = settings, machine
        self.stack = ExitStack()
        self.served: dict[str, Served] = {}
        self.threads = Threads(settings.threads, "classify")
        self.stack.callback(self.threads.close)
        with ExitStack() as opening:
            opening.callback(self.close)
            for tag in tags:
                served = self.open(tag)
                self.served[served.manifest.variant] = served
            self.routing = routing(settings, {name: served.manifest for name, served in self.served.items()})
            opening.pop_all()

    def open(self, tag: str) -> Served:
        model = bentoml.models.get(tag)
        folder, version = Path(model.path), str(model.tag.version)
        manifest = read_manifest(folder, version)
        if not manifest.trained:
            logger.warning("%s is untrained: its predictions mean nothing", tag)
        choice = choose(folder, manifest, self.settings, self.machine)
        runner = open_with(choice.runtime, folder, manifest, self.settings, self.machine)
        self.stack.enter_context(runner)
        crop = manifest.spec.preprocessing.crop
        runner.infer(np.zeros((1, crop, crop, 3), np.uint8))
        if runner.engine is not None and runner.engine.not_measured is not None:
            logger.warning("%s: the engine was never compared with its network: %s", tag, runner.engine.not_measured)
        alone_s = seconds_alone(runner, crop) if runner.device == "cpu" else 0.0
        spread = self.spread(runner, folder, manifest, alone_s) if runner.device == "cpu" else None
        lane = self.lane(runner, manifest, spread, alone_s)
        self.stack.callback(lane.close)
        explainer = Explainer(folder, manifest, self.settings.intra_op_threads or 1, self.threads)
        self.stack.callback(explainer.lane.close)
        return Served(version, manifest, runner, choice, lane, explainer)

    @property
    def fault(self) -> str | None:
        """What made a device useless, with the first variant that ran on it; None while all can answer."""
        faults = ((name, served.runner.fault) for name, served in self.served.items())
        return next((f"{name}: {fault}" for name, fault in faults if fault is not None), None)

    def spread(self, runner: Runner, folder: Path, manifest: Manifest, alone_s: float) -> Spread | None:
        """For requests that are alone, with a second session; None where it is not wanted."""
        threads, crop = self.settings.spread_over, manifest.spec.preprocessing.crop
        if threads == 1 or self.settings.batching is Batching.ON:
            return None
        wide = self.stack.enter_context(open_on_cpu(folder / GRAPH_FILE, manifest, threads, SPINNING_US))
        wide.infer(np.zeros((1, crop, crop, 3), np.uint8))
        logger.info(
            "%s: an image takes %.1f ms on one core; who comes alone has %d while they are quicker",
            manifest.variant, alone_s * 1e3, threads,
        )  # fmt: skip
        return Spread(runner, wide, alone_s)

    def lane(self, runner: Runner, manifest: Manifest, spread: Spread | None, alone_s: float) -> Lane:
        on_cpu, batching = runner.device == "cpu", self.settings.batching
        if batching is Batching.OFF or (batching is Batching.AUTO and on_cpu):
            most = 1 if batching is Batching.OFF else worth_a_batch(alone_s, manifest.max_batch_size)
            return Shares(runner, self.threads, most, manifest.variant, spread, alone_s)
        dispatchers = self.settings.threads if on_cpu else 1
        return Batches(runner, self.threads, manifest.max_batch_size, manifest.variant, dispatchers)

    def close(self) -> None:
        self.stack.close()

    def choose(self, variant: str | None, client: bytes | None = None) -> Served:
        """The variant that is asked for, or who answers this client where none is."""
        if variant is None:
            return self.served[self.routing.choose(client)]
        if variant not in self.served:
            raise RequestError(
                HTTPStatus.NOT_FOUND,
                "unknown_variant",
                f"variant {variant!r} is not served here",
                found=variant,
                accepted=list(self.served),
            )
        return self.served[variant]

    def classification(
        self,
        encoded: bytes,
        served: Served,
        top_k: int,
        moments: Moments,
        deadline: float = math.inf,
        small: bool = False,
    ) -> Work[Classification]:
        """An encoded image -> its `top_k` most probable classes; `small`: found to be a small JPEG."""

        def write(logits: NDArray[np.float32], moments: Moments) -> Classification:
            return classified(served, logits[0], top_k, moments)

        return Work(self.reader(encoded, served.manifest, small), write, moments, deadline)

    def explanation(
        self, encoded: bytes, served: Served, index: int | None, top_k: int, moments: Moments, deadline: float
    ) -> Work[Explanation]:
        """An encoded image -> the activation map of a class, of the most probable where `index` is None."""

        def write(maps: NDArray[np.float32], moments: Moments) -> Explanation:
            return explained(served.manifest, served.version, maps[0], index, top_k, moments)

        return Work(self.reader(encoded, served.manifest), write, moments, deadline)

    def reader(self, encoded: bytes, manifest: Manifest, small: bool = False) -> Callable[[], NDArray[np.uint8]]:
        return lambda: self.decode(encoded, manifest, small)[np.newaxis]

    def decode(self, encoded: bytes, manifest: Manifest, small: bool = False) -> NDArray[np.uint8]:
        try:
            if small:
                return read_small_jpeg(encoded, manifest.spec.preprocessing, self.settings.max_image_pixels)
            return read_pixels(io.BytesIO(encoded), manifest.spec.preprocessing, self.settings.max_image_pixels)
        except ImageTooLargeError as error:
            limit = f"up to {self.settings.max_image_pixels} pixels"
            raise RequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_pixels", str(error), accepted=[limit]
            ) from None
        except ImageError as error:
            raise RequestError(
                HTTPStatus.BAD_REQUEST,
                "not_an_image",
                str(error),
                found=f"{len(encoded)} bytes, beginning {encoded[:8].hex(' ')}",
                accepted=list(FORMATS),
            ) from None

    @property
    def queue_depth(self) -> int:
        """Requests that wait for a thread or for a runner."""
        lanes = (lane for served in self.served.values() for lane in (served.lane, served.explainer.lane))
        return self.threads.waiting() + sum(lane.waiting() for lane in lanes)

    def variants(self) -> Variants:
        return Variants(variants=[self.describe(served) for served in self.served.values()])

    def describe(self, served: Served) -> Variant:
        manifest = served.manifest
        return Variant(
            variant=manifest.variant,
            version=served.version,
            default=manifest.variant == next(iter(self.served)),
            split_percent=self.routing.split[manifest.variant],
            shadow_percent=self.routing.shadow.get(manifest.variant, 0.0),
            trained=manifest.trained,
            ordering=manifest.spec.ordering,
            depth=manifest.spec.depth,
            labels=manifest.labels,
            preprocessing=manifest.spec.preprocessing,
            runtime=served.runner.runtime,
            device=served.runner.device,
            precision=manifest.precision,
            engine=served.runner.engine,
            passed_over={str(runtime): reason for runtime, reason in served.choice.passed_over.items()},
            max_batch_size=manifest.max_batch_size,
            files=manifest.files,
            checkpoint_sha256=manifest.checkpoint_sha256,
            parity=manifest.parity,
            accuracy=manifest.accuracy,
            training_accuracy=manifest.training_accuracy,
            not_measured=manifest.not_measured,
        )


def classified(served: Served, logits: NDArray[np.float32], top_k: int, moments: Moments) -> Classification:
    return {
        "variant": served.manifest.variant,
        "version": served.version,
        "trained": served.manifest.trained,
        "predictions": most_probable(logits, served.manifest.labels, top_k),
        "timings_ms": moments.timings_ms(),
    }
