"""Where training and evaluation run."""

from __future__ import annotations

import torch

from models.recipe import Precision


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda`."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def fastest_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies it natively; elsewhere it is emulated and slower than fp32."""
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP32
    return Precision.BF16 if torch.cpu._is_avx512_bf16_supported() else Precision.FP32
