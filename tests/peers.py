"""timm and torchvision, whose checkpoints and arithmetic ours are held against."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

OPERATORS = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")


@cache
def peers() -> dict[str, Any]:
    """Their import needs operators that torchvision's binaries would bring, were they made for this torch."""
    stand_in = torch.library.Library("torchvision", "FRAGMENT")
    for operator in OPERATORS:
        for defined in (operator, f"_{operator}_backward"):
            stand_in.define(f"{defined}(Tensor x) -> Tensor")
    import timm
    import timm.data
    import torchvision

    return {"timm": timm, "torchvision": torchvision, "operators": stand_in}
