"""From logits to the most probable classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.answers import Prediction

FEW = 32  # classes, up to which NumPy's calls take longer than what they do; most of all after an inference, uncached


def most_probable(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """Softmax in float64; equal logits keep the order of their indices."""
    return [
        {"label": labels[index], "index": index, "probability": round(probability, 6)}
        for index, probability in (best_of_few if len(logits) <= FEW else best_of_many)(logits, top_k)
    ]


def best_of_few(logits: NDArray[np.float32], top_k: int) -> list[tuple[int, float]]:
    values = logits.tolist()
    most = max(values)
    exponentials = [math.exp(value - most) for value in values]
    total = sum(exponentials)
    best = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    return [(index, exponentials[index] / total) for index in best]


def best_of_many(logits: NDArray[np.float32], top_k: int) -> list[tuple[int, float]]:
    exponentials = np.exp(logits - logits.max(), dtype=np.float64)
    best = (-logits).argsort(kind="stable")[:top_k]
    probabilities = exponentials[best] / exponentials.sum()
    return list(zip(best.tolist(), probabilities.tolist(), strict=True))
