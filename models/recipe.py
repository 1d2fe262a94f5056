"""What a training run does, said before it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; weights, their updates and evaluation are always float32."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up then cosine decay to zero, mirrored and shifted images.

    The shape of He et al. 2015, section 4.2, with a smooth schedule; `weight_decay` applies to every parameter.
    """

    epochs: int = 50
    batch_size: int = 128
    peak_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 2.0
    crop_padding: int = 4
    precision: Precision = Precision.FP32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.crop_padding < 0:
            raise ValueError(
                f"epochs is {self.epochs}, batch size {self.batch_size}, crop padding {self.crop_padding}: "
                "expected at least 1, 1 and 0"
            )
        numbers = (self.peak_lr, self.weight_decay, self.warmup_epochs)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or not self.peak_lr:
            raise ValueError(
                f"peak lr is {self.peak_lr}, weight decay {self.weight_decay}, warm-up epochs {self.warmup_epochs}: "
                "expected finite numbers, none negative, and a peak lr above 0"
            )

    def lr(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of update `step`, counted from 0 over the whole run."""
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.peak_lr * (step + 1) / warmup
        progress = (step - warmup) / max(self.epochs * steps_per_epoch - warmup, 1)
        return self.peak_lr * 0.5 * (1 + math.cos(math.pi * progress))


FROM_SCRATCH = Recipe()
FINE_TUNING = Recipe(epochs=10, peak_lr=0.01, warmup_epochs=1.0)
