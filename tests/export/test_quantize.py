"""int8 graphs are of the form that their runtime runs fastest, and score what fp32 scores."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from PIL import Image

from export import quantize as module
from export.__main__ import choices, main, parser, settings_of
from export.artifact import Precision, read_manifest
from export.calibration import file_beside, read_calibration
from export.folding.fold import fold
from export.graph_session import cpu_options
from export.images import from_photographs
from export.pipeline import export
from export.quantize import FORMS, MadeFor, PrecisionError, calibrate, quantize
from export.source import open_source
from export.to_onnx import INPUT
from models.choice import choice_of
from models.spec import spec_for
from models.weights import zoo_path
from tests.conftest import PAIR, SHARED_DATA
from tests.conversions import converted
from tests.export.test_artifact import exported
from tests.models.test_data import write_batches

Ranges = dict[str, tuple[float, float]]
FP32_CORRECT = {"resnet20-postact": 9186, "resnet20-preact": 9098}


@pytest.fixture(scope="module", params=PAIR)
def shipped(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto, Ranges]:
    """A shipped network folded for int8, with the ranges that are shipped beside its weights."""
    source = open_source(choice_of(request.param), untrained=False)
    graph = ir.from_proto(converted(source.graph))
    fold(graph, Precision.INT8)
    model = ir.to_proto(graph)
    calibration = read_calibration(file_beside(zoo_path(request.param)), source.checkpoint_sha256, model)
    return request.param, model, calibration.ranges


@pytest.fixture(scope="module")
def images(photographs: Path) -> np.ndarray:
    pixels, _ = from_photographs(photographs, spec_for(PAIR[0]).preprocessing)
    return pixels[::5]


def logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), cpu_options(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {INPUT: images[i : i + 500]})[0] for i in range(0, len(images), 500)])


def operators_run(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.shared_data
def test_the_shipped_pair_loses_nothing_to_speak_of(shipped: tuple[str, onnx.ModelProto, Ranges]) -> None:
    variant, model, ranges = shipped
    with np.load(SHARED_DATA / "cifar10" / "cifar10-test.npz") as arrays:
        pixels, labels = np.ascontiguousarray(arrays["images"].transpose(0, 2, 3, 1)), arrays["labels"]
    correct = int((logits(quantize(model, ranges), pixels).argmax(1) == labels).sum())
    assert correct >= FP32_CORRECT[variant] - 50  # 0.5 points of 10,000


@pytest.mark.parametrize("made_for", [MadeFor.ONNXRUNTIME, MadeFor.PORTABLE])
def test_answers_are_those_of_fp32(
    shipped: tuple[str, onnx.ModelProto, Ranges], images: np.ndarray, made_for: MadeFor
) -> None:
    _, model, ranges = shipped
    before, after = logits(model, images), logits(quantize(model, ranges, made_for), images)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.8


def test_onnx_runtime_runs_integers_from_end_to_end(
    shipped: tuple[str, onnx.ModelProto, Ranges], tmp_path: Path
) -> None:
    variant, model, ranges = shipped
    found = operators_run(quantize(model, ranges), tmp_path)
    assert found["QLinearConv"] == 19
    assert found["QLinearAdd"] == 9
    assert found["Clip"] == (9 if variant == "resnet20-preact" else 0)
    assert not found.keys() & {"Conv", "Add", "Relu", "Max", "Min", "BatchNormalization"}
    assert found["DequantizeLinear"] <= 4  # two option-A shortcuts, pooling, logits


def test_activations_of_integers_are_exact(
    shipped: tuple[str, onnx.ModelProto, Ranges], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scales, with and without the rewriting."""
    _, model, ranges = shipped
    with_integers = logits(quantize(model, ranges), images)
    monkeypatch.setattr(module, "to_integers", lambda _: None)
    assert np.array_equal(with_integers, logits(quantize(model, ranges), images))


def test_bounds_per_channel_become_integers_as_well(images: np.ndarray, tmp_path: Path) -> None:
    """Half the gammas of a stage's second block negative: what no gauge can turn."""
    graph = open_source(choice_of("resnet20-preact"), untrained=False).graph
    graph.network.layer3[1].bn1.weight.data[::2] *= -1
    folded = ir.from_proto(converted(graph))
    report = fold(folded, Precision.INT8)
    assert any("an upper bound" in into for into in report.folded.values())
    model = ir.to_proto(folded)
    quantized = quantize(model, calibrate(model, [images]))
    assert not operators_run(quantized, tmp_path).keys() & {"Conv", "Relu"}
    of_integers = [node for node in quantized.graph.node if node.op_type in {"Max", "Min"}]
    assert of_integers
    assert (logits(model, images).argmax(1) == logits(quantized, images).argmax(1)).mean() > 0.8


def test_tensorrt_gets_symmetric_int8_and_float_biases(shipped: tuple[str, onnx.ModelProto, Ranges]) -> None:
    _, model, ranges = shipped
    graph = ir.from_proto(quantize(model, ranges, MadeFor.TENSORRT)).graph
    pairs = [node for node in graph if node.op_type == "DequantizeLinear"]
    assert len(pairs) > 19
    for node in pairs:
        zero_point = node.inputs[2].const_value.numpy()
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    for node in graph:
        if node.op_type == "Conv" and len(node.inputs) > 2:
            assert node.inputs[2].is_initializer()
    assert not FORMS[MadeFor.TENSORRT].integer_activations


def test_ranges_of_another_graph_are_refused(shipped: tuple[str, onnx.ModelProto, Ranges]) -> None:
    _, model, ranges = shipped
    with pytest.raises(PrecisionError, match="do not fit the graph"):
        quantize(model, {f"other_{name}": value for name, value in ranges.items()})


@pytest.mark.shared_data
def test_the_shipped_ranges_are_those_of_training_images(
    shipped: tuple[str, onnx.ModelProto, Ranges],
) -> None:
    _, model, ranges = shipped
    with np.load(SHARED_DATA / "cifar10" / "cifar10-train.npz") as arrays:
        chosen = np.sort(np.random.default_rng(0).permutation(50_000)[:1024])
        pixels = np.ascontiguousarray(arrays["images"][chosen].transpose(0, 2, 3, 1))
    again = calibrate(model, np.split(pixels, 16))
    assert again.keys() == ranges.keys()
    names = list(ranges)
    np.testing.assert_allclose([again[name] for name in names], [ranges[name] for name in names], rtol=1e-3, atol=1e-3)


def test_the_shipped_weights_need_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    version, folder = exported(["resnet20-preact", "--precision", "int8"], capsys)
    assert version.startswith("onnxruntime-int8-")
    manifest = read_manifest(folder, version)
    assert manifest.quantization is not None
    assert manifest.quantization.images == "cifar10 train"
    assert manifest.parity is not None
    assert manifest.parity.top1_agreement > 0.8
    assert not manifest.folding.left


def test_an_untrained_network_is_quantized_on_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    version, folder = exported(["resnet14-postact", "--untrained", "--precision", "int8"], capsys)
    assert "photographs" in read_manifest(folder, version).quantization.images


def test_a_loss_beyond_the_gate_writes_nothing(tmp_path: Path) -> None:
    """The gate is one that the command line would not take: no graph gains 101 points."""
    import bentoml

    data = tmp_path / "cifar-10-batches-py"
    data.mkdir()
    write_batches(data)
    before = len(bentoml.models.list())
    options = parser().parse_args(["resnet20-preact", "--precision", "int8", "--data", str(data)])
    (choice,) = choices(options)
    with pytest.raises(PrecisionError, match="Nothing was written"):
        export(choice, replace(settings_of(options), most_points_lost=-101.0))
    assert len(bentoml.models.list()) == before


def test_weights_without_images_are_told_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "own.safetensors"
    checkpoint.write_bytes(zoo_path("resnet20-preact").read_bytes())
    arguments = ["resnet20-preact", "--checkpoint", str(checkpoint), "--precision", "int8"]
    assert main(arguments) == 2
    assert f"give --calibration FOLDER or --data; there is no {file_beside(checkpoint)}" in capsys.readouterr().err


def test_a_calibration_is_saved_and_found_again(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "own.safetensors"
    checkpoint.write_bytes(zoo_path("resnet20-preact").read_bytes())
    arguments = ["resnet20-preact", "--checkpoint", str(checkpoint), "--precision", "int8"]
    saved = ["--calibration", str(photographs), "--save-calibration", str(file_beside(checkpoint))]
    first, second = exported([*arguments, *saved], capsys), exported(arguments, capsys)
    manifests = [read_manifest(folder, version) for version, folder in (first, second)]
    assert manifests[0].files == manifests[1].files
    assert [("--calibration" in manifest.given) for manifest in manifests] == [True, False]


def test_int8_that_computes_something_else_and_passes_no_gate_is_warned_of(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photographs / "chelsea.png", tmp_path)
    black = tmp_path / "black"
    black.mkdir()
    Image.new("RGB", (32, 32)).save(black / "black.png")
    arguments = ["resnet20-preact", "--precision", "int8", "--images", str(tmp_path)]
    assert main([*arguments, "--calibration", str(black)]) == 0
    said = capsys.readouterr().err
    agreement = re.search(r"resnet20-preact: int8 agrees with torch in top-1 on ([\d.]+% of 65 images) ", said)
    assert agreement is not None
    (warning,) = (line for line in said.splitlines() if "warning: resnet20-preact: int8 may be useless" in line)
    assert agreement[1] in warning
    assert "; calibration images: 1." in warning
    assert "more --calibration images" in warning
    assert "--data FOLDER" in warning


def test_the_agreement_by_the_shipped_ranges_is_said_without_a_warning(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photographs / "chelsea.png", tmp_path)
    assert main(["resnet20-preact", "--precision", "int8", "--images", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "65 images (1 photographs and tiles of them); calibration images: 1024" in said
    assert "warning" not in said


@pytest.mark.parametrize(
    ("content", "message"),
    [("not JSON", "no calibration"), (None, "is of the checkpoint with sha256 another")],
)
def test_a_calibration_of_something_else_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.calibration.json"
    fields = json.loads(file_beside(zoo_path("resnet20-preact")).read_text()) | {"checkpoint_sha256": "another"}
    path.write_text(json.dumps(fields) if content is None else content)
    with pytest.raises(PrecisionError, match=message):
        read_calibration(path, "this", onnx.ModelProto())


def test_ranges_of_another_fold_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The names fit and the values do not: they are of a stream that was scaled."""
    assert main(["resnet20-preact", "--precision", "int8", "--no-fold"]) == 2
    assert "is of another graph of this checkpoint" in capsys.readouterr().err
