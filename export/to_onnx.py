"""Network -> ONNX graph that takes uint8 pixels and gives float32 logits."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from export.normalisation import fuse_normalisation
from models.data import normalised
from models.resnet import ResNet
from models.spec import Preprocessing

OPSET = 20
INPUT, OUTPUT = "images", "logits"


class ServedGraph(nn.Module):
    """uint8 pixels [N, H, W, 3] -> float32 logits [N, classes]; normalisation is part of the graph."""

    def __init__(self, network: ResNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float().permute(0, 3, 1, 2)  # cast first: TensorRT rejects a uint8 Transpose
        logits: Tensor = self.network(normalised(pixels, self.preprocessing))
        return logits


def to_onnx(graph: ServedGraph) -> onnx.ModelProto:
    """Export with a dynamic batch axis. The same graph gives the same bytes, whatever machine exports it."""
    crop = graph.preprocessing.crop
    example = torch.zeros((2, crop, crop, 3), dtype=torch.uint8)
    with quiet_exporter():
        program = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    exported = ir.from_proto(program.model_proto)
    fuse_normalisation(exported)
    model: onnx.ModelProto = ir.to_proto(exported)
    forget_origin(model)
    onnx.checker.check_model(model, full_check=True)
    return model


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Its progress marks cannot be switched off; torch 2.13 warns of a call of its own and of absent torchvision."""
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
        yield


def forget_origin(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of source files and stack traces: paths of one machine among them."""
    for holder in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del holder.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("doc_string")
