"""The exported graph: uint8 in, logits out, the same numbers as torch, nothing of the machine that made it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.artifact import Precision
from export.images import from_photographs, random_pixels
from export.to_onnx import ServedGraph, to_onnx
from export.verify import ParityError, compare, open_graph
from models.resnet import build
from models.spec import Shortcut, spec_for
from tests.models.test_resnet import randomise_batch_norms

GRAPHS = [
    ("resnet8-postact", Shortcut.OPTION_A),
    ("resnet8-preact", Shortcut.OPTION_A),
    ("resnet8-preact", Shortcut.PROJECTION),
    ("resnet18-postact", Shortcut.PROJECTION),
    ("resnet18-preact", Shortcut.PROJECTION),
]


def served(variant: str, shortcut: Shortcut, seed: int = 0) -> ServedGraph:
    spec = spec_for(variant, shortcut=shortcut)
    network = build(spec, seed=seed)
    randomise_batch_norms(network)
    return ServedGraph(network, spec.preprocessing).eval()


@pytest.mark.parametrize(("variant", "shortcut"), GRAPHS)
def test_a_graph_agrees_with_torch_at_any_batch_size(variant: str, shortcut: Shortcut, tmp_path: Path) -> None:
    graph = served(variant, shortcut)
    onnx.save(to_onnx(graph), tmp_path / "model.onnx")
    run = open_graph(tmp_path / "model.onnx")
    for n in (1, 3):
        pixels = random_pixels(graph.preprocessing, n)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(pixels)).numpy()
        found = run(pixels)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("variant", ["resnet8-postact", "resnet8-preact"])
def test_a_graph_begins_with_cast_and_transpose_and_says_nothing_of_its_maker(variant: str) -> None:
    model = to_onnx(served(variant, Shortcut.OPTION_A))
    (images,) = model.graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [node.op_type for node in model.graph.node][:2] == ["Cast", "Transpose"]
    content = model.SerializeToString()
    assert str(Path.cwd()).encode() not in content
    assert b".py" not in content
    assert content == to_onnx(served(variant, Shortcut.OPTION_A)).SerializeToString()


def test_normalisation_is_part_of_the_graph(tmp_path: Path) -> None:
    graph = served("resnet8-preact", Shortcut.OPTION_A)
    pixels = torch.from_numpy(random_pixels(graph.preprocessing, 2))
    mean, std = (torch.tensor(values) for values in (graph.preprocessing.mean, graph.preprocessing.std))
    by_hand = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(graph(pixels), graph.network(by_hand))


def test_a_graph_of_other_weights_is_refused(tmp_path: Path, photographs: Path) -> None:
    onnx.save(to_onnx(served("resnet8-preact", Shortcut.OPTION_A, seed=0)), tmp_path / "model.onnx")
    other = served("resnet8-preact", Shortcut.OPTION_A, seed=1)
    images, description = from_photographs(photographs, other.preprocessing)
    assert "photographs and tiles" in description
    assert len(images) > 500
    with pytest.raises(ParityError, match="Nothing was written"):
        compare(other, open_graph(tmp_path / "model.onnx"), images, "photographs", Precision.FP32)


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    graph = served("resnet8-preact", Shortcut.OPTION_A)
    graph.network.fc.bias.data.fill_(float("nan"))
    onnx.save(to_onnx(graph), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="what was exported gives no numbers"):
        compare(
            graph,
            open_graph(tmp_path / "model.onnx"),
            random_pixels(graph.preprocessing),
            "random",
            Precision.FP32,
        )


def test_an_overflow_in_fp16_is_called_one() -> None:
    graph = served("resnet8-preact", Shortcut.OPTION_A)
    pixels = random_pixels(graph.preprocessing, 4)

    def run(images: np.ndarray) -> np.ndarray:
        logits = graph(torch.from_numpy(images)).detach().numpy()
        logits[1:] = np.inf
        return logits

    with pytest.raises(ParityError, match=r"fp16 overflows \(inf/nan in 3 of 4 images, random\).*use --precision fp32"):
        compare(graph, run, pixels, "random", Precision.FP16)
