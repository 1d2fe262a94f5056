"""A float32 graph to a float16 one whose logits are float32 still."""

from __future__ import annotations

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """uint8 pixels become float16 (whole numbers to 2048 are exact in it), logits are cast back at the end.

    No operator stays in float32: by default that would be Max and Min, which folding leaves where a ReLU needs a bound.
    """
    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True, op_block_list=[])
    onnx.checker.check_model(converted, full_check=True)
    return converted
