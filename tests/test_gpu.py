"""What only a GPU can show. Skipped elsewhere; `make gpu-check` measures, this says right or wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bentoml
import httpx2 as httpx
import numpy as np
import onnx
import pytest

from export.__main__ import main
from export.artifact import ENGINE_FILE, GRAPH_FILE, ArtifactError, Precision, Runtime, read_manifest
from export.cuda import Cuda, UnavailableError, open_cuda
from export.engine_cache import EngineCache
from export.engine_session import EngineSession
from export.flavour import load, no_kernels
from export.images import random_pixels
from export.to_engine import profile_for, target, to_engine
from export.to_fp16 import to_fp16
from export.to_onnx import to_onnx
from export.verify import open_graph
from loadtests.local_service import local_service
from models.spec import Shortcut
from serving.config import ServingRuntime, Settings
from serving.runners.choice import open_runner
from serving.runners.machine import Machine
from tests.conftest import PAIR, ROOT
from tests.export.test_graph import served
from tests.serving.test_http_api import encoded

pytestmark = pytest.mark.gpu
VARIANTS = ["resnet8-postact", "resnet8-preact"]


@pytest.fixture
def cuda() -> Cuda:
    return open_cuda()


@pytest.fixture(params=[Runtime.TENSORRT, Runtime.TENSORRT_RTX])
def flavour(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    try:
        load(request.param)
    except UnavailableError as error:
        pytest.skip(str(error))
    if (reason := no_kernels(request.param, open_cuda().compute_capability)) is not None:
        pytest.skip(reason)
    return request.param


def session(path: Path, flavour: Runtime, cuda: Cuda, cache: EngineCache) -> EngineSession:
    profile = profile_for(16)
    content, engine = to_engine(path, flavour, profile, target(flavour, None, cuda), cache)
    return EngineSession(content, engine, cuda, load(flavour), source=str(path), rebuild="rebuild it")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("precision", "share"), [(Precision.FP32, 1e-3), (Precision.FP16, 3e-2)])
def test_an_engine_answers_as_its_graph(
    variant: str, precision: Precision, share: float, flavour: Runtime, cuda: Cuda, tmp_path: Path
) -> None:
    graph = served(variant, Shortcut.OPTION_A)
    model = to_onnx(graph)
    path = tmp_path / "model.onnx"
    onnx.save(model if precision is Precision.FP32 else to_fp16(model), path)
    pixels = random_pixels(graph.preprocessing, 37)
    expected = open_graph(path)(pixels)
    with session(path, flavour, cuda, EngineCache(tmp_path)) as opened:
        for n in (1, 3, 16, 37):
            found = opened.run(pixels[:n])
            assert np.abs(found - expected[:n]).max() <= share * np.abs(expected).max()


def test_a_truncated_engine_does_not_open(flavour: Runtime, cuda: Cuda, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(served("resnet8-preact", Shortcut.OPTION_A)), path)
    content, engine = to_engine(path, flavour, profile_for(4), target(flavour, None, cuda), None)
    with pytest.raises(ArtifactError, match="rebuild it"):
        EngineSession(content[:1000], engine, cuda, load(flavour), source="x", rebuild="rebuild it")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_runs_every_node_on_the_gpu(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not Machine().onnxruntime_has_cuda:
        pytest.skip("needs onnxruntime-gpu")
    assert main([PAIR[1], "--precision", precision]) == 0
    tag = capsys.readouterr().out.strip()
    model = bentoml.models.get(tag)
    manifest = read_manifest(Path(model.path), str(model.tag.version))
    settings = Settings.model_validate({"runtime": ServingRuntime.ONNXRUNTIME_CUDA})
    pixels = random_pixels(manifest.spec.preprocessing, 5)
    expected = open_graph(Path(model.path) / GRAPH_FILE)(pixels)
    with open_runner(Path(model.path), manifest, settings, Machine()) as runner:
        found = runner.infer(pixels)
        assert runner.device.startswith("cuda:0, ")
    assert np.abs(found - expected).max() <= (1e-3 if precision == "fp32" else 3e-2) * np.abs(expected).max()
    bentoml.models.delete(tag)


def test_the_service_runs_an_engine_and_says_so(flavour: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([PAIR[1], "--runtime", flavour, "--precision", "fp16"]) == 0
    tag = capsys.readouterr().out.strip()
    manifest = read_manifest(Path(bentoml.models.get(tag).path), tag.partition(":")[2])
    assert manifest.engine is not None
    assert manifest.engine.parity is not None
    assert (Path(bentoml.models.get(tag).path) / ENGINE_FILE).stat().st_size > 0
    with local_service(environment={"SERVING_MODELS": tag}, folder=ROOT, ready_within_s=300) as running:
        (variant,) = httpx.get(f"{running.url}/variants").json()["variants"]
        assert variant["runtime"].startswith(f"{flavour} ")
        assert variant["device"].startswith("cuda:0, ")
        assert httpx.post(f"{running.url}/classify", content=encoded(), timeout=30).status_code == 200
    bentoml.models.delete(tag)
