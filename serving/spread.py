"""An inference on the cores of all threads, for a request that comes alone.

Under load each thread infers a request of its own on one core, and nothing is lost by cutting an inference up. Who
comes alone would leave the other cores idle by that, and wait the longer: on two cores a ResNet-50 takes 0.58 of the
time on both. So there are two sessions of one graph, where the second gains enough for its memory.
"""

from __future__ import annotations

import logging
import math
import time

import numpy as np

from serving.runners.base import Inference, Runner

logger = logging.getLogger("bentoml.serve")

GAIN = 1.2  # in speed; a ResNet-20 gains nothing, its operators take less than waking a thread does
TRIES = 5


def worth_spreading(narrow: Inference, spread: Runner, crop: int) -> bool:
    """Whether images [1, crop, crop, 3] are inferred faster by `spread`, by the fastest of a few tries each."""
    alone = np.zeros((1, crop, crop, 3), np.uint8)
    spread.infer(alone)  # the first run is slower than those that follow
    narrow_s = spread_s = math.inf
    for _ in range(TRIES):
        narrow_s = min(narrow_s, seconds_of(narrow, alone))
        spread_s = min(spread_s, seconds_of(spread, alone))
    return narrow_s >= GAIN * spread_s


def seconds_of(inference: Inference, images: np.ndarray) -> float:
    begun = time.perf_counter()
    inference.infer(images)
    return time.perf_counter() - begun
