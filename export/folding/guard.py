"""What a low precision can tell apart, and how folding keeps to it.

A BatchNormalization that training left with a small gamma has a large |b / a|: its channel would be shifted by that
along the stream, where fewer bits then remain for what the other BatchNormalizations read. The statistics that training
recorded say which values to expect: BatchNormalization's output is `beta + gamma z` with z of mean 0 and deviation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.artifact import Precision
from export.folding.nodes import MEAN, VARIANCE, Affine, Vector, constant

DEVIATIONS = 3.0  # of a normal distribution: 99.7 % of values lie within


@dataclass(frozen=True, slots=True)
class Guard:
    """`step`: the smallest difference in a value, as a share of the largest, that the precision keeps.

    `uniform`: the step is one for all channels of a tensor (int8), so that a gauge helps; else one for each value.
    `most_steps`: what the stream's rounding may add to an activation, in steps of that activation; a BatchNormalization
    that costs others more is left in place.
    """

    step: float
    uniform: bool
    most_steps: float


GUARDS = {
    Precision.FP32: None,  # its digits suffice for any shift up to `fold.LARGEST_SHIFT`
    Precision.FP16: Guard(step=2.0**-11, uniform=False, most_steps=8),
    Precision.INT8: Guard(step=1 / 255, uniform=True, most_steps=8),
}


@dataclass(frozen=True)
class Expected:
    """What a BatchNormalization's input x and output `scale * x + offset` are expected to be, per channel."""

    mean: Vector  # of x
    spread: Vector  # of x around its mean, `DEVIATIONS` standard deviations
    centre: Vector  # of the output
    swing: Vector  # of the output around its centre

    @property
    def usual(self) -> Vector:
        """The size that values of x have, per channel."""
        return np.asarray(np.abs(self.mean) + self.spread / DEVIATIONS)

    @property
    def largest(self) -> float:
        """The largest value that the ReLU behind lets through, in any channel."""
        return float(max((self.centre + self.swing).max(), 0))

    def steady(self, guard: Guard) -> NDArray[np.bool_]:
        """Channels whose activation varies by less than a step of the tensor: they might as well be constant."""
        return (self.swing <= guard.step * self.largest) | (self.centre + self.swing <= guard.step * self.largest)

    def simplified(self, affine: Affine, guard: Guard) -> Affine:
        """Steady channels become constants, and 0 where even the constant is less than a step."""
        steady = self.steady(guard)
        visible = self.centre + self.swing > guard.step * self.largest
        offset = np.where(visible, np.maximum(self.centre, 0), 0)
        return Affine(np.where(steady, 0, affine.scale), np.where(steady, offset, affine.offset))


def expected(node: ir.Node, affine: Affine) -> Expected:
    """Read off the statistics of a BatchNormalization, which computes `affine`."""
    mean, variance = (np.asarray(constant(node.inputs[index]), np.float64) for index in (MEAN, VARIANCE))
    spread = DEVIATIONS * np.sqrt(variance)
    return Expected(mean, spread, affine.scale * mean + affine.offset, np.abs(affine.scale) * spread)
