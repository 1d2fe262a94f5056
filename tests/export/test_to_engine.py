"""Engines, really built by TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bentoml
import onnx
import pytest

from export import make
from export.__main__ import main
from export.artifact import (
    ENGINE_FILE,
    GRAPH_FILE,
    ArtifactError,
    Engine,
    Manifest,
    OptimizationProfile,
    Precision,
    Runtime,
    read_manifest,
)
from export.cuda import Cuda, UnavailableError
from export.engine_cache import EngineCache
from export.flavour import load
from export.to_engine import EngineError, Target, build, target, to_engine
from export.to_onnx import to_onnx
from models.spec import Shortcut
from serving.runners.machine import Machine
from tests.conftest import PAIR
from tests.export.test_artifact import exported, kept
from tests.export.test_engine_session import described
from tests.export.test_graph import served
from tests.host_gpu import tensorrt_rtx
from tests.host_gpu.engines import HostTensorRt
from tests.host_gpu.runtime import HostCudart

PROFILE = OptimizationProfile(minimum=1, optimum=4, maximum=16)
RTX = ["--runtime", "tensorrt_rtx"]


@pytest.fixture
def cache(tmp_path: Path) -> list[str]:
    return ["--engine-cache", str(tmp_path / "engines")]


def manifest_and_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Manifest, Path]:
    version, folder = exported(arguments, capsys)
    return read_manifest(folder, version), folder


@pytest.mark.parametrize("variant", PAIR)
@pytest.mark.parametrize("precision", list(Precision))
def test_the_shipped_pair_becomes_engines(
    variant: str,
    precision: Precision,
    cache: list[str],
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(photographs / "chelsea.png", tmp_path / "images")
    arguments = [variant, *RTX, "--precision", precision, *cache, "--images", str(tmp_path / "images")]
    manifest, folder = manifest_and_folder(arguments, capsys)
    engine = manifest.engine
    assert engine is not None
    assert manifest.runtime is engine.flavour is Runtime.TENSORRT_RTX
    assert engine.version == tensorrt_rtx.__version__
    assert engine.compute_capability is None
    assert engine.profile == OptimizationProfile(minimum=1, optimum=8, maximum=64)
    assert manifest.parity is not None
    least = {Precision.FP32: 1.0, Precision.FP16: 0.95, Precision.INT8: 0.7}  # on 65 tiles of one photograph
    assert manifest.parity.top1_agreement >= least[precision]
    if isinstance(Machine().cuda, UnavailableError):
        assert engine.parity is None
        assert "no usable CUDA device" in str(engine.not_measured)
    assert (folder / ENGINE_FILE).stat().st_size > 1e6
    assert (
        tensor_types(folder / GRAPH_FILE)
        == {
            Precision.FP32: {"FLOAT"},
            Precision.FP16: {"FLOAT16"},
            Precision.INT8: {"FLOAT", "INT8"},
        }[precision]
    )
    bentoml.models.delete(f"{variant}:{folder.name}")  # others want the newest of the pair


def tensor_types(path: Path) -> set[str]:
    """Of all weights that are not shapes."""
    names = Counter(onnx.TensorProto.DataType.Name(each.data_type) for each in onnx.load(path).graph.initializer)
    return set(names) - {"INT64"}


def test_logits_stay_float32_in_fp16(cache: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    manifest, folder = manifest_and_folder(["resnet8-preact", "--untrained", "--precision", "fp16"], capsys)
    model = onnx.load(folder / GRAPH_FILE)
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [node.op_type for node in model.graph.node][:2] == ["Cast", "Transpose"]
    assert manifest.runtime is Runtime.ONNXRUNTIME


def test_exporting_again_takes_the_engine_from_the_cache(
    cache: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["resnet8-postact", "--untrained", *RTX, *cache]
    first, _ = exported(arguments, capsys)
    (kept,) = (tmp_path / "engines").glob("*.engine")
    made = kept.stat().st_mtime_ns
    second, _ = exported(arguments, capsys)
    assert first == second
    assert kept.stat().st_mtime_ns == made
    exported([*arguments, "--max-batch-size", "16"], capsys)  # other options, another engine
    assert len({path.name.partition("-")[0] for path in (tmp_path / "engines").glob("*.engine")}) == 2


def test_of_several_who_want_an_engine_one_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def slowly(*_: object) -> bytes:
        built.append(b"an engine")
        time.sleep(0.2)  # long enough for the others to come
        return built[0]

    def want(number: int) -> bytes:
        content, _ = to_engine(graph, Runtime.TENSORRT_RTX, PROFILE, Target(), EngineCache(tmp_path / "engines"))
        return content

    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"a graph")
    monkeypatch.setattr("export.to_engine.build", slowly)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [b"an engine"] * 4
    assert len(built) == 1


def test_where_nothing_can_be_kept_engines_are_built_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = EngineCache(tmp_path / "file" / "engines")
    monkeypatch.setattr("export.to_engine.build", lambda *_: b"an engine")
    assert to_engine(tmp_path / "file", Runtime.TENSORRT_RTX, PROFILE, Target(), cache)[0] == b"an engine"


@pytest.fixture(scope="module")
def with_engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("engine")
    return kept(folder, "resnet8-preact", "--untrained", *RTX, "--engine-cache", str(folder / "cache"))


@pytest.fixture
def artifact(with_engine: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """A copy of an artifact with an engine, to be spoiled."""
    version, folder = with_engine
    return version, Path(shutil.copytree(folder, tmp_path / "artifact"))


def test_a_truncated_engine_is_refused(artifact: tuple[str, Path]) -> None:
    version, folder = artifact
    path = folder / ENGINE_FILE
    path.write_bytes(path.read_bytes()[:-100])
    command = "python -m export resnet8-preact --untrained --runtime tensorrt_rtx"
    with pytest.raises(
        ArtifactError, match=rf"model\.engine: sha256 is .*, the manifest says .*export again: {command}"
    ):
        read_manifest(folder, version)


def test_a_missing_engine_is_refused(artifact: tuple[str, Path]) -> None:
    version, folder = artifact
    (folder / ENGINE_FILE).unlink()
    with pytest.raises(ArtifactError, match=r"model\.engine: No such file"):
        read_manifest(folder, version)


@pytest.mark.parametrize(
    "change",
    [
        {"runtime": "onnxruntime"},
        {"runtime": "tensorrt"},
        {"engine": None},
        {"class_maps": None},
        {"files": {"model.onnx": "0"}},
    ],
)
def test_a_manifest_whose_engine_contradicts_it_is_refused(artifact: tuple[str, Path], change: dict[str, Any]) -> None:
    _, folder = artifact
    fields = json.loads((folder / "manifest.json").read_text())
    Manifest.model_validate(fields)
    with pytest.raises(ValueError, match="the runtime is"):
        Manifest.model_validate(fields | change)


def test_an_engine_without_measurements_says_why() -> None:
    fields = described().model_dump()
    with pytest.raises(ValueError, match="the reason for its absence None"):
        Engine.model_validate(fields | {"not_measured": None})
    with pytest.raises(ValueError, match="minimum <= optimum <= maximum"):
        OptimizationProfile(minimum=1, optimum=9, maximum=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*RTX, "--compute-capability", "89"], "tensorrt_rtx has no compute capability 89; it knows 7.5, 8.0"),
        (["--compute-capability", "8.9"], "--compute-capability is of engines; name their --runtime"),
        ([*RTX, "--compute-capability", "9.0"], "tensorrt_rtx has no compute capability 9.0; it knows 7.5, 8.0"),
        (["--precision", "auto"], "takes trained weights and --data FOLDER"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    arguments: list[str], message: str, cache: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resnet8-preact", "--untrained", *arguments, *cache]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_flavour_that_is_not_installed_is_named_before_anything_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        load(Runtime.TENSORRT)
    except UnavailableError:
        assert main(["resnet8-preact", "--untrained", "--runtime", "tensorrt"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "tensorrt is not installed" in line
        assert "pip install tensorrt" in line
    else:
        pytest.skip("needs a machine without TensorRT")


def test_tensorrt_builds_for_the_gpu_at_hand_alone() -> None:
    here = Cuda(HostCudart("9.0"))
    assert target(Runtime.TENSORRT, None, here) == Target("9.0", "Host GPU")
    assert target(Runtime.TENSORRT_RTX, "8.9", here) == Target("8.9")
    with pytest.raises(EngineError, match=r"which is Host GPU, compute capability 9\.0, not for 8\.9"):
        target(Runtime.TENSORRT, "8.9", here)
    with pytest.raises(UnavailableError, match="tensorrt builds for the GPU at hand, and there is no GPU"):
        target(Runtime.TENSORRT, None, UnavailableError("no GPU"))


def test_a_graph_that_tensorrt_cannot_parse_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"x\.onnx: the parser refuses it: .*MODEL_DESERIALIZE_FAILED"):
        to_engine(tmp_path / "x.onnx", Runtime.TENSORRT_RTX, PROFILE, Target(), None)


def test_a_graph_of_fixed_batches_is_refused(tmp_path: Path) -> None:
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 4])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["images"], ["logits"])], "fixed", [images], [logits])
    path = tmp_path / "x.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(EngineError, match=r"input images has shape \(1, 4\): the first axis alone may vary"):
        to_engine(path, Runtime.TENSORRT_RTX, PROFILE, Target(), None)


def test_an_interrupted_build_is_interrupted(tmp_path: Path) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    onnx.save(to_onnx(served("resnet8-postact", Shortcut.OPTION_A)), tmp_path / "x.onnx")
    with pytest.raises(KeyboardInterrupt):
        to_engine(
            tmp_path / "x.onnx",
            Runtime.TENSORRT_RTX,
            PROFILE,
            Target(),
            None,
            lambda *step: press() if step[1] else None,
        )


class Seen:
    """Before an object of TensorRT, with some of its methods replaced."""

    def __init__(self, real: Any, **replaced: Any) -> None:
        vars(self).update(replaced, real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)


class Watched:
    """The module `tensorrt_rtx`; what a build told it is kept. It takes timings, as TensorRT does, if not `refused`."""

    def __init__(self, refused: bytes | None = None) -> None:
        self.refused, self.timings = refused, []

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorrt_rtx, name)

    def Builder(self, log: Any) -> Any:
        return Seen(
            tensorrt_rtx.Builder(log),
            create_network=lambda flags: self.typed(flags) or self.builder.create_network(flags),
            create_builder_config=lambda: self.config,
            build_serialized_network=lambda network, config: self.builder.build_serialized_network(
                network, config.real
            ),
        )

    @cached_property
    def builder(self) -> Any:
        self.log = tensorrt_rtx.Logger()
        return tensorrt_rtx.Builder(self.log)

    def typed(self, flags: int) -> None:
        self.strongly_typed = bool(flags >> int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1)

    @cached_property
    def config(self) -> Any:
        return Seen(
            self.builder.create_builder_config(),
            create_timing_cache=lambda content: self.timings.append(content) or content,
            set_timing_cache=lambda content, ignore_mismatch: not ignore_mismatch and content != self.refused,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"timings"),
        )


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "x.onnx"
    onnx.save(to_onnx(served("resnet8-postact", Shortcut.OPTION_A)), path)
    return path


def test_what_the_builder_is_told(graph: Path) -> None:
    tensorrt, flags = Watched(), tensorrt_rtx.BuilderFlag
    assert tensorrt.config.get_flag(flags.TF32)  # by itself
    build(tensorrt, graph, described(), None)
    assert tensorrt.strongly_typed
    assert not tensorrt.config.get_flag(flags.TF32)
    assert tensorrt.config.get_flag(flags.REQUIRE_USER_ALLOCATION)  # else streams cannot be captured
    assert not tensorrt.timings


def test_timings_of_kernels_are_kept_for_the_next_build(graph: Path, tmp_path: Path) -> None:
    cache, engine = EngineCache(tmp_path), described(Runtime.TENSORRT, optimization_level=3)
    for expected in ([b""], [b"timings"]):
        tensorrt = Watched()
        build(tensorrt, graph, engine, cache)
        assert tensorrt.timings == expected
    refusing = Watched(refused=b"timings")
    build(refusing, graph, engine, cache)
    assert refusing.timings == [b"timings", b""]


@pytest.fixture
def host_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A GPU is at hand; the graphs whose engines are built, of which the first is what every engine computes.

    An engine of none does not open.
    """
    cudart, graphs, real = HostCudart(), [], make.to_engine

    def noted(graph: Path, *more: Any) -> Any:
        graphs.append(graph)
        return real(graph, *more)

    monkeypatch.setattr("export.job.cuda_or_reason", lambda: Cuda(cudart))
    monkeypatch.setattr(make, "to_engine", noted)
    monkeypatch.setattr(make, "load", lambda _: HostTensorRt(graphs[0], cudart, opens=graphs[0].exists()))
    return graphs


def test_where_the_gpu_is_at_hand_the_engine_is_verified_itself(
    host_gpu: list[Path],
    graph: Path,
    cache: list[str],
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(photographs / "chelsea.png", tmp_path)
    images = ["--images", str(tmp_path)]
    arguments = ["resnet8-preact", "--untrained", *images, *RTX, *cache, "--compute-capability", "8.9"]
    manifest, _ = manifest_and_folder(arguments, capsys)
    assert manifest.engine is not None
    assert manifest.engine.not_measured is None
    assert manifest.engine.parity is not None
    assert manifest.engine.parity.top1_agreement == 1.0
    host_gpu[:] = [graph]  # of another network
    assert main([*arguments, "--max-batch-size", "5"]) == 2
    assert "the logits of what was exported differ from torch's" in capsys.readouterr().err
    host_gpu[:] = [Path("none")]
    assert main([*arguments, "--max-batch-size", "5"]) == 2
    command = "resnet8-preact --images FOLDER --untrained --runtime tensorrt_rtx --compute-capability 8.9"
    assert f"rebuild it: python -m export {command} --max-batch-size 5, or serve" in capsys.readouterr().err
