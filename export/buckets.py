"""Sizes of batches that a GPU is prepared for. Torch-free."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def buckets_of(largest: int) -> tuple[int, ...]:
    """Powers of two, and the largest batch itself."""
    return (*(1 << power for power in range((largest - 1).bit_length())), largest)


def bucket_for(images: int, buckets: Sequence[int]) -> int:
    """The smallest that holds so many, of those in ascending order; no more than the largest does."""
    return buckets[bisect_left(buckets, images)]


def in_parts(
    images: NDArray[np.uint8], largest: int, run: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Logits [N, classes] of uint8 pixels [N, H, W, 3], N at least 1, by runs of at most the largest batch."""
    parts = [run(images[start : start + largest]) for start in range(0, len(images), largest)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
