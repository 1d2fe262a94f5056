"""From logits to the most probable classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.answers import Prediction


def most_probable(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """Softmax in float64; equal logits keep the order of their indices."""
    exponentials = np.exp(logits - logits.max(), dtype=np.float64)
    total = exponentials.sum()
    best = (-logits).argsort(kind="stable")[:top_k]
    probabilities = (exponentials[best] / total).tolist()
    return [
        {"label": labels[index], "index": index, "probability": round(probability, 6)}
        for index, probability in zip(best.tolist(), probabilities, strict=True)
    ]
