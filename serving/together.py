"""Requests that go to the runner together: one inference, and each its own rows of what it gives."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import too_late
from serving.metrics import metrics
from serving.runners.base import Inference
from serving.work import Inferred, Work, finish

logger = logging.getLogger("bentoml.serve")

SMOOTHING = 0.2  # of what the next is expected to take: the share that the newest one has

Decoded = tuple[Work[Any], NDArray[np.uint8]]


class Together:
    """What lanes that form batches share; how they form them, and who finishes what is inferred, is theirs.

    `counted_as` is the variant that the batches are counted for; those of None are not.
    """

    def __init__(self, runner: Inference, counted_as: str | None) -> None:
        self.runner = runner
        self.sizes = None if counted_as is None else metrics().batches_of(counted_as)

    def run(self, batch: Sequence[Decoded], inference: Inference) -> None:
        """All together; where that fails, each alone, so that it fails only who made it."""
        try:
            self.infer(batch, inference)
        except Exception as error:  # noqa: BLE001  whoever awaits it has to hear of it
            if len(batch) == 1:
                batch[0][0].end(None, error)
                return
            logger.warning("a batch of %d requests failed (%s); each is tried alone", len(batch), error)
            for alone in batch:
                self.run([alone], inference)

    def infer(self, batch: Sequence[Decoded], inference: Inference) -> None:
        taken = time.perf_counter()
        pixels = batch[0][1] if len(batch) == 1 else np.concatenate([pixels for _, pixels in batch])
        logits = inference.infer(pixels)
        inferred = time.perf_counter()
        self.took(len(pixels), inferred - taken)
        if self.sizes is not None:
            self.sizes.append(len(pixels))
        for work, _ in batch:
            work.moments.taken, work.moments.inferred = taken, inferred
        self.finish(list(split(logits, batch)))

    def admit(self, deadline: float) -> None:
        """Raises RequestError 429 for who cannot be answered by then, as far as the lane knows."""

    def run_here(self, work: Work[Any]) -> bool:  # noqa: ARG002
        """For the event loop: whether it has been run at once, as a lane may do for who is alone."""
        return False

    def took(self, images: int, seconds: float) -> None:
        """For who learns from it."""

    def finish(self, inferred: Sequence[Inferred]) -> None:
        finish(inferred)


def refuse_late(work: Work[Any]) -> None:
    work.end(None, too_late("inference would have ended after the deadline, and was not begun"))


def split(logits: NDArray[np.float32], batch: Sequence[Decoded]) -> Iterator[Inferred]:
    first = 0
    for work, pixels in batch:
        yield work, logits[first : first + len(pixels)]
        first += len(pixels)
