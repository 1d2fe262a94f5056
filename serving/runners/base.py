"""The promise that every runtime keeps."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from export.artifact import Engine


class Inference(Protocol):
    """What a lane needs of a model."""

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class Runner(AbstractContextManager["Runner"], Inference, Protocol):
    """An open model. `infer` may be called from several threads at once; leaving the context closes it.

    `runtime` and `device` name what really runs; `engine` is the one that is open, where it is TensorRT's. `fault` is
    what made the device useless, once it has failed for good; None as long as there is hope.
    """

    @property
    def runtime(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def engine(self) -> Engine | None: ...
    @property
    def fault(self) -> str | None: ...

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 pixels [N, crop, crop, 3] -> logits [N, classes]. Raises DeviceError where the runtime fails."""
        ...

    def __enter__(self) -> Self: ...
