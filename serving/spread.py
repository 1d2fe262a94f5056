"""An inference on the cores of all threads, for a request that comes alone.

Under load each thread infers a request of its own on one core, and nothing is lost by cutting an inference up. Who
comes alone would leave the other cores idle by that, and wait the longer: on two cores a ResNet-50 takes 0.53 of the
time on both, a ResNet-20 0.61. So there are two sessions of one graph.

The threads of the second stay awake from one operator to the next, and a moment beyond the last: waking one takes
longer than an operator of a ResNet-20. Where the moment is over, a short inference is quicker on one core. How much is
gained at all depends on what else runs on the cores, so it is looked at by and by.
"""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from serving.runners.base import Inference

SPINNING_US = 200  # that threads wait awake
AT_ONCE_S = 0.0005  # after an inference another finds the cores awake
LONG_S = 0.005  # an inference that is worth waking threads for
AGAIN = 128  # of so many images that are quicker on one core one tries all: too few for p99 to show it
FORGETTING = 1 / 32  # of what is above the least: much can make an inference slower than it is, nothing quicker
TRIES = 3
PAUSE_S = 0.002  # before each: who comes alone finds threads asleep


class Spread:
    """An inference on one core or on all, whichever was quicker lately. For one caller at a time.

    `narrow` and `wide` are two sessions of a graph; an image takes the first `narrow_s`. The second is believed to be
    quicker until it shows, and tried again later: what it takes depends on who else uses the cores.
    """

    def __init__(self, narrow: Inference, wide: Inference, narrow_s: float) -> None:
        self.ways = (narrow, wide)
        self.least_s = [narrow_s, 0.0]  # lately, by the way
        self.within_s = math.inf if narrow_s >= LONG_S else AT_ONCE_S
        self.until_again, self.ended_s = AGAIN, -math.inf

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 pixels [N, crop, crop, 3] -> logits [N, classes]."""
        if time.perf_counter() - self.ended_s > self.within_s:
            return self.infer_by(0, images)
        if self.least_s[1] < self.least_s[0]:
            return self.infer_by(1, images)
        self.until_again -= 1
        if self.until_again:
            return self.infer_by(0, images)
        self.until_again = AGAIN
        return self.infer_by(1, images)

    def infer_by(self, way: int, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        begun = time.perf_counter()
        logits = self.ways[way].infer(images)
        self.ended_s = time.perf_counter()
        if len(images) == 1:  # another number would say nothing of one image
            self.learn(way, self.ended_s - begun)
        return logits

    def learn(self, way: int, seconds: float) -> None:
        least_s = self.least_s[way]
        self.least_s[way] = seconds if seconds < least_s else least_s + FORGETTING * (seconds - least_s)


def seconds_alone(inference: Inference, crop: int) -> float:
    """What an image [1, crop, crop, 3] takes that comes alone: the least of a few, after a first run.

    What else the machine does as a worker starts must not make a short inference a long one.
    """
    images = np.zeros((1, crop, crop, 3), np.uint8)
    found = []
    for _ in range(TRIES):
        time.sleep(PAUSE_S)
        begun = time.perf_counter()
        inference.infer(images)
        found.append(time.perf_counter() - begun)
    return min(found)
