"""The graph of class maps: a cheap second file whose means are the logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.artifact import CLASS_MAPS_FILE, GRAPH_FILE, read_manifest
from export.class_maps import ClassMapsError, add_class_maps, to_class_maps
from export.quantize import calibrate, quantize
from export.to_fp16 import to_fp16
from export.verify import open_graph, open_maps
from tests.conftest import PAIR

SMALLEST = 20  # times: that much less than the weights once more


def pixels(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def folder_of(tag: str) -> Path:
    import bentoml

    return Path(bentoml.models.get(tag).path)


@pytest.mark.parametrize("place", range(len(PAIR)))
def test_the_mean_of_a_map_is_the_logit(place: int, exported_pair: tuple[str, str]) -> None:
    folder = folder_of(exported_pair[place])
    logits = open_graph(folder / GRAPH_FILE)(pixels())
    maps = open_graph(folder / CLASS_MAPS_FILE, "class_maps")(pixels())
    manifest = read_manifest(folder, exported_pair[place].partition(":")[2])
    assert manifest.class_maps is not None
    assert maps.shape == (4, *manifest.class_maps.shape[1:]) == (4, 10, 8, 8)
    assert np.abs(maps.mean((2, 3)) - logits).max() < 1e-4
    assert np.abs(maps[:, :, 0, 0] - logits).max() > 0.1  # one place alone is not


@pytest.mark.parametrize("place", range(len(PAIR)))
def test_the_weights_are_stored_once(place: int, exported_pair: tuple[str, str]) -> None:
    folder = folder_of(exported_pair[place])
    graph, maps = ((folder / name).stat().st_size for name in (GRAPH_FILE, CLASS_MAPS_FILE))
    assert maps * SMALLEST < graph


@pytest.mark.parametrize(("precision", "rounding"), [("fp16", 1e-2), ("int8", 0.5)])
@pytest.mark.parametrize("place", range(len(PAIR)))
def test_lower_precisions_have_maps_of_their_own_graph(
    place: int, precision: str, rounding: float, exported_pair: tuple[str, str], tmp_path: Path
) -> None:
    """int8's logits are rounded to its steps, once as a mean and once as logits; the maps are not."""
    model = onnx.load(folder_of(exported_pair[place]) / GRAPH_FILE)
    lowered = to_fp16(model) if precision == "fp16" else quantize(model, calibrate(model, [pixels(32)]))
    onnx.save(lowered, tmp_path / GRAPH_FILE)
    spec = add_class_maps(tmp_path)
    logits, means = open_graph(tmp_path / GRAPH_FILE)(pixels()), open_maps(tmp_path / CLASS_MAPS_FILE)(pixels())
    assert spec.shape == ("batch", 10, 8, 8)
    assert 0 < np.abs(means - logits).max() < rounding


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_head_without_bias_has_maps(precision: str, exported_pair: tuple[str, str], tmp_path: Path) -> None:
    """The exporter leaves out a bias of zeros, which heads of other projects begin with."""
    model = onnx.load(folder_of(exported_pair[1]) / GRAPH_FILE)
    (head,) = (node for node in model.graph.node if node.op_type == "Gemm")
    del head.input[2:]
    onnx.save(model if precision == "fp32" else quantize(model, calibrate(model, [pixels(32)])), tmp_path / GRAPH_FILE)
    add_class_maps(tmp_path)
    logits, means = open_graph(tmp_path / GRAPH_FILE)(pixels()), open_maps(tmp_path / CLASS_MAPS_FILE)(pixels())
    assert np.abs(means - logits).max() < (1e-4 if precision == "fp32" else 0.5)


def test_a_graph_that_ends_in_something_else_is_refused() -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "any", tensors[:1], tensors[1:])
    with pytest.raises(ClassMapsError, match="ends in Relu, expected Gemm"):
        to_class_maps(helper.make_model(graph))


def test_the_second_file_alone_is_a_valid_graph_of_one_output(exported_pair: tuple[str, str]) -> None:
    path = folder_of(exported_pair[0]) / CLASS_MAPS_FILE
    onnx.checker.check_model(path, full_check=True)
    assert [output.name for output in onnx.load(path).graph.output] == ["class_maps"]
