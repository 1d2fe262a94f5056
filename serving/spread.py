"""An inference on the cores of all threads, for a request that comes alone.

Under load each thread infers a request of its own on one core, and nothing is lost by cutting an inference up. Who
comes alone would leave the other cores idle by that, and wait the longer: on two cores a ResNet-50 takes 0.58 of the
time on both. So there are two sessions of one graph, where inferences are long and the second gains enough for its
memory. (A ResNet-20 ran 0.94 to 1.31 times as fast in twelve openings: nothing to rely on.)
"""

from __future__ import annotations

import time

import numpy as np

from serving.runners.base import Inference

LONG_S = 0.005  # an inference; below, a client that is alone waits little anyway, and shares gain more (Shares.most)
GAIN = 1.2  # in speed, below which a second session is not worth its memory
TRIES = 3  # of each: a ResNet-152 takes 0.2 s a try
PAUSE_S = 0.002  # before each: who comes alone finds threads asleep, and waking them is part of it


def seconds_alone(inference: Inference, crop: int) -> float:
    """What an image [1, crop, crop, 3] takes that comes alone: the least of a few, after a first run.

    It is judged by once: what else the machine does as a worker starts must not make a short inference a long one.
    """
    return min(seconds_of(inference, crop) for _ in range(TRIES))


def gain_of(spread: Inference, narrow: Inference, crop: int) -> float:
    """How many times as fast images [1, crop, crop, 3] that come one by one are inferred, by medians in turn."""
    spread.infer(np.zeros((1, crop, crop, 3), np.uint8))  # the first run is slower than those that follow
    pairs = [(seconds_of(narrow, crop), seconds_of(spread, crop)) for _ in range(TRIES)]
    narrow_s, spread_s = np.median(pairs, axis=0)
    return float(narrow_s / spread_s)


def seconds_of(inference: Inference, crop: int) -> float:
    images = np.zeros((1, crop, crop, 3), np.uint8)
    time.sleep(PAUSE_S)
    begun = time.perf_counter()
    inference.infer(images)
    return time.perf_counter() - begun
