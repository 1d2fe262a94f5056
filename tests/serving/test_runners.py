"""What was asked for runs, or nothing does; and what `auto` passes over, it names."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import bentoml
import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from export.__main__ import main
from export.artifact import GRAPH_FILE, ArtifactError, Manifest, Precision, read_manifest
from export.buckets import buckets_of
from export.cuda import DeviceError, UnavailableError
from export.graph_session import missing_library, on_cpu, on_cuda
from export.verify import open_graph
from loadtests.local_service import ServiceError, local_service
from serving.classifier import Classifier
from serving.config import Engines, ServingRuntime, Settings
from serving.http_api import HttpApi
from serving.opened import Opened
from serving.runners.base import Runner
from serving.runners.choice import choose, open_runner
from serving.runners.machine import Machine
from serving.runners.onnxruntime_cuda_runner import OnnxRuntimeCudaRunner
from serving.runners.onnxruntime_runner import OnnxRuntimeRunner
from tests.conftest import ROOT
from tests.host_gpu.engines import VERSION, HostMachine, HostTensorRt
from tests.host_gpu.runtime import HostCudart
from tests.host_gpu.sessions import FAILURE, HostSession
from tests.serving.test_http_api import encoded

ENGINE_ARTIFACT = ["resnet14-preact", "--untrained", "--runtime", "tensorrt_rtx"]


class NoGpu(Machine):
    """A machine without one, whatever this one has."""

    cuda = UnavailableError("no usable CUDA device")


@dataclass(frozen=True)
class Artifact:
    tag: str
    folder: Path
    manifest: Manifest


def stored(tag: str) -> Artifact:
    model = bentoml.models.get(tag)
    folder = Path(model.path)
    return Artifact(tag, folder, read_manifest(folder, str(model.tag.version)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact with a real engine, portable as TensorRT-RTX builds it."""
    cache = tmp_path_factory.mktemp("engines")
    assert main([*ENGINE_ARTIFACT, "--engine-cache", str(cache)]) == 0
    return stored("resnet14-preact")


@pytest.fixture(scope="module")
def plain(exported_pair: tuple[str, str]) -> Artifact:
    return stored(exported_pair[1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(engine_cache=tmp_path / "cache")


def with_gpu(artifact: Artifact, compute_capability: str = "8.9") -> HostMachine:
    return HostMachine(HostTensorRt(artifact.folder / GRAPH_FILE, HostCudart(compute_capability)))


def asking(settings: Settings, runtime: str = "auto", engines: Engines = Engines.AS_EXPORTED) -> Settings:
    return settings.model_copy(update={"runtime": ServingRuntime(runtime), "engines": engines})


def test_auto_takes_the_engine_where_its_gpu_is(engine: Artifact, settings: Settings) -> None:
    choice = choose(engine.folder, engine.manifest, settings, with_gpu(engine))
    assert choice.runtime is ServingRuntime.TENSORRT_RTX
    assert str(choice).startswith("tensorrt_rtx (not tensorrt: the artifact has no engine of it (python -m export ")


def test_auto_on_a_machine_without_gpu_names_every_better_runtime(engine: Artifact, settings: Settings) -> None:
    choice = choose(engine.folder, engine.manifest, settings, NoGpu())
    assert choice.runtime is ServingRuntime.ONNXRUNTIME
    assert list(choice.passed_over) == ["tensorrt", "tensorrt_rtx", "onnxruntime-cuda"]
    assert choice.passed_over[ServingRuntime.TENSORRT_RTX] == "no usable CUDA device"


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx", "onnxruntime-cuda"])
def test_what_was_asked_for_is_not_replaced(runtime: str, engine: Artifact, settings: Settings) -> None:
    with pytest.raises(UnavailableError, match=f"resnet14-preact cannot be served as SERVING_RUNTIME={runtime} asks: "):
        open_runner(engine.folder, engine.manifest, asking(settings, runtime), NoGpu())


def test_onnxruntime_for_cpus_is_not_taken_for_one_on_cuda(plain: Artifact, settings: Settings) -> None:
    machine = with_gpu(plain)
    machine.onnxruntime_has_cuda = False
    with pytest.raises(UnavailableError, match="pip install onnxruntime-gpu"):
        choose(plain.folder, plain.manifest, asking(settings, "onnxruntime-cuda"), machine)
    assert "onnxruntime-gpu" in choose(plain.folder, plain.manifest, settings, machine).passed_over["onnxruntime-cuda"]


@pytest.mark.no_gpu
def test_onnxruntime_that_finds_no_cuda_raises_instead_of_using_the_cpu(plain: Artifact) -> None:
    """The real ONNX Runtime of this machine: by itself it would log a line and answer from the CPU."""
    with pytest.raises(
        UnavailableError, match=r"model\.onnx: ONNX Runtime (does not run it on CUDA alone|would run it)"
    ):
        on_cuda(plain.folder / GRAPH_FILE, Precision.FP32, 0)


def test_a_cuda_library_that_is_missing_is_named(
    tmp_path: Path, plain: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that is linked to a library which is not there, as where CUDA's were not installed."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, on Linux")
    (tmp_path / "capi").mkdir()
    link = [compiler, "-shared", "-Wl,--no-as-needed", "-o"]
    provider = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    for library in (tmp_path / "libcublasLt.so.13", tmp_path / "capi" / "libonnxruntime_providers_shared.so"):
        subprocess.run([*link, library, f"-Wl,-soname,{library.name}", "-x", "c", "/dev/null"], check=True)
    subprocess.run([*link, provider, tmp_path / "libcublasLt.so.13", "-x", "c", "/dev/null"], check=True)
    (tmp_path / "libcublasLt.so.13").unlink()
    assert missing_library(tmp_path / "capi") == "libcublasLt.so.13"
    monkeypatch.setattr("export.graph_session.onnxruntime.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(
        UnavailableError, match=r"there is no libcublasLt\.so\.13: pip install 'onnxruntime-gpu\[cuda,cudnn\]'"
    ):
        on_cuda(plain.folder / GRAPH_FILE, Precision.FP32, 0)


def test_an_int8_graph_is_not_run_by_what_it_was_not_made_for(plain: Artifact, settings: Settings) -> None:
    manifest = plain.manifest.model_copy(update={"precision": Precision.INT8})
    for runtime, engines in (("onnxruntime-cuda", Engines.AS_EXPORTED), ("tensorrt_rtx", Engines.REBUILD)):
        with pytest.raises(UnavailableError, match="int8 graph"):
            choose(plain.folder, manifest, asking(settings, runtime, engines), with_gpu(plain))


def test_an_engine_of_another_gpu_stops_auto_as_well(engine: Artifact, settings: Settings) -> None:
    """Something slower would do, and nobody would notice."""
    with pytest.raises(ArtifactError) as caught:
        choose(engine.folder, engine.manifest, settings, with_gpu(engine, "7.5"))
    message = str(caught.value)
    assert (
        "model.engine: was built for compute capability 8.0 and later, here is Host GPU, compute capability 7.5"
        in message
    )
    command = "rebuild it: python -m export resnet14-preact --untrained --runtime tensorrt_rtx --compute-capability 7.5"
    assert f"{command}, or serve with SERVING_ENGINES=rebuild" in message


def test_a_gpu_that_a_flavour_has_no_kernels_for_is_passed_over(engine: Artifact, settings: Settings) -> None:
    choice = choose(engine.folder, engine.manifest, settings, with_gpu(engine, "9.0"))
    assert "tensorrt_rtx runs on compute capability 7.5" in choice.passed_over[ServingRuntime.TENSORRT_RTX]
    with pytest.raises(UnavailableError, match=r"here is 9\.0"):
        choose(engine.folder, engine.manifest, asking(settings, "tensorrt_rtx"), with_gpu(engine, "9.0"))


def of_version(artifact: Artifact, version: str) -> Manifest:
    assert artifact.manifest.engine is not None
    older = artifact.manifest.engine.model_copy(update={"version": version})
    return artifact.manifest.model_copy(update={"engine": older})


def test_an_engine_of_another_version_is_refused_or_rebuilt(engine: Artifact, settings: Settings) -> None:
    manifest, machine = of_version(engine, "1.6.0.1"), with_gpu(engine)
    with pytest.raises(ArtifactError, match=rf"was built by tensorrt_rtx 1\.6\.0\.1, here is {VERSION}; rebuild it"):
        open_runner(engine.folder, manifest, settings, machine)
    rebuilding = asking(settings, engines=Engines.REBUILD)
    with open_runner(engine.folder, manifest, rebuilding, machine) as runner:
        assert runner.engine is not None
        assert runner.engine.version == VERSION
        assert runner.engine.not_measured == "built when the service started"
        assert answers_like_the_graph(runner, engine)
    assert list(settings.engine_cache.glob("*.engine"))


def test_rebuilding_makes_an_engine_of_an_artifact_that_has_none(plain: Artifact, settings: Settings) -> None:
    rebuilding = asking(settings, "tensorrt_rtx", Engines.REBUILD)
    with open_runner(plain.folder, plain.manifest, rebuilding, with_gpu(plain)) as runner:
        assert runner.runtime == f"tensorrt_rtx {VERSION}"
        assert answers_like_the_graph(runner, plain)


def test_what_is_rebuilt_is_for_the_gpu_at_hand(engine: Artifact, settings: Settings) -> None:
    """Not a portable engine, which some GPUs cannot run."""
    assert engine.manifest.engine is not None
    other = engine.manifest.engine.model_copy(update={"compute_capability": "8.6"})
    manifest = engine.manifest.model_copy(update={"engine": other})
    with open_runner(engine.folder, manifest, asking(settings, engines=Engines.REBUILD), with_gpu(engine)) as runner:
        assert runner.engine is not None
        assert runner.engine.compute_capability == "8.9"
        assert answers_like_the_graph(runner, engine)


def test_rebuilding_replaces_an_engine_of_another_model_of_gpu(engine: Artifact, settings: Settings) -> None:
    assert engine.manifest.engine is not None
    other = engine.manifest.engine.model_copy(update={"gpu": "NVIDIA L4"})
    manifest = engine.manifest.model_copy(update={"engine": other})
    with open_runner(engine.folder, manifest, settings, with_gpu(engine)) as runner:
        assert runner.engine == other
    with open_runner(engine.folder, manifest, asking(settings, engines=Engines.REBUILD), with_gpu(engine)) as runner:
        assert runner.engine is not None
        assert runner.engine.gpu is None


def test_a_fitting_engine_is_not_rebuilt(engine: Artifact, settings: Settings) -> None:
    with open_runner(
        engine.folder, engine.manifest, asking(settings, engines=Engines.REBUILD), with_gpu(engine)
    ) as runner:
        assert runner.engine == engine.manifest.engine
    assert not list(settings.engine_cache.glob("*.engine"))


def answers_like_the_graph(runner: Runner, artifact: Artifact, n: int = 3) -> bool:
    crop = artifact.manifest.spec.preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (n, crop, crop, 3), dtype=np.uint8)
    return np.allclose(runner.infer(pixels), open_graph(artifact.folder / GRAPH_FILE)(pixels), rtol=1e-4, atol=1e-4)


def test_threads_get_their_own_answers(engine: Artifact, settings: Settings) -> None:
    crop = engine.manifest.spec.preprocessing.crop
    images = np.random.default_rng(0).integers(0, 256, (40, crop, crop, 3), dtype=np.uint8)
    expected = open_graph(engine.folder / GRAPH_FILE)(images)
    with (
        open_runner(engine.folder, engine.manifest, settings, with_gpu(engine)) as runner,
        ThreadPoolExecutor(8) as pool,
    ):
        found = np.concatenate(list(pool.map(runner.infer, images[:, np.newaxis])))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_photograph_is_answered_and_variants_says_what_really_runs(engine: Artifact, settings: Settings) -> None:
    classifier = Classifier((engine.tag,), settings, with_gpu(engine))
    try:
        answer = TestClient(HttpApi(PlainTextResponse(""), Opened(classifier))).post(
            "/classify?top_k=3", content=encoded()
        )
        assert len(answer.json()["predictions"]) == 3
        (variant,) = classifier.variants().variants
        assert variant.runtime == f"tensorrt_rtx {VERSION}"
        assert variant.device == "cuda:0, Host GPU, compute capability 8.9"
        assert variant.precision == "fp32"
        assert variant.engine == engine.manifest.engine
        assert list(variant.passed_over) == ["tensorrt"]
        assert variant.passed_over["tensorrt"].startswith("the artifact has no engine of it")
    finally:
        classifier.close()


@pytest.mark.no_gpu
def test_an_engine_that_was_never_run_is_served_with_a_warning(
    engine: Artifact, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    Classifier((engine.tag,), settings, with_gpu(engine)).close()
    (warning,) = [text for text in caplog.messages if "never compared" in text]
    assert f"{engine.tag}: the engine was never compared with its network: built where there is no usable" in warning


@pytest.fixture(scope="module")
def service() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BentoML's, of pydantic
        from serving import service
    return service


def test_a_gpu_that_dies_ends_readiness_and_life_and_requests_get_503(
    engine: Artifact, settings: Settings, service: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = with_gpu(engine)
    classifier = Classifier((engine.tag,), settings, machine)
    api = TestClient(HttpApi(PlainTextResponse(""), Opened(classifier)))
    monkeypatch.setattr(service.opened, "classifier", classifier)

    def readiness() -> set[int]:
        ours = asyncio.run(service.Preflight.inner.__is_ready__(service.Preflight))
        paths = ("/v2/health/ready", "/v2/models/resnet14-preact/ready")
        return {200 if ours else 503, *(api.get(path).status_code for path in paths)}

    assert readiness() == {200}
    machine.module.engine.cudart.is_dead = True
    assert readiness() == {200}  # nobody has asked it yet
    assert api.get("/livez").status_code == 200
    refused = api.post("/classify", content=encoded())
    assert (refused.status_code, refused.json()["error"]) == (503, "device_failed")
    assert "cuda" not in refused.text
    assert api.get("/livez").status_code == 503  # only a restart helps
    assert str(classifier.fault).startswith("resnet14-preact: cuda")
    assert "cudaErrorLaunchFailure" in str(classifier.fault)
    assert readiness() == {503, 400}
    assert api.get("/v2/models/resnet14-preact/ready").json() == {"name": "resnet14-preact", "ready": False}
    classifier.close()


class Failing:
    """A session that fails as ONNX Runtime does."""

    def run(self, *_: object) -> None:
        raise Fail(FAILURE)


Captured = list[set[tuple[int, tuple[int, ...]]]]


def on_host(artifact: Artifact, machine: HostMachine) -> tuple[OnnxRuntimeCudaRunner, Captured]:
    """ONNX Runtime's runner on the double, and what each of its sessions captures: the thread and the shape."""
    captured: Captured = []

    def open_session(stream: int) -> HostSession:
        session = HostSession(artifact.folder / GRAPH_FILE, machine.module.engine.cudart, stream)
        captured.append(session.captured)
        return session

    return OnnxRuntimeCudaRunner(open_session, artifact.manifest, machine.gpu()), captured


@pytest.mark.parametrize("is_dead", [False, True])
def test_what_fails_in_onnxruntime_is_one_of_our_errors_and_a_fault_only_where_the_gpu_is_lost(
    is_dead: bool, plain: Artifact, service: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = with_gpu(plain)
    runner, _ = on_host(plain, machine)
    monkeypatch.setattr(HostSession, "fails", True)
    machine.module.engine.cudart.is_dead = is_dead
    with pytest.raises(DeviceError, match=r"^onnxruntime .* fails on cuda:0, Host GPU.*: ") as caught:
        runner.infer(np.zeros((1, 32, 32, 3), np.uint8))
    assert ("CUDA failure 700" in str(caught.value)) is not is_dead  # a lost one fails sooner
    assert (runner.fault is not None) is is_dead
    beside = OnnxRuntimeRunner(Failing(), plain.manifest)
    with pytest.raises(DeviceError, match="fails on cpu: "):
        beside.infer(np.zeros((1, 32, 32, 3), np.uint8))
    assert beside.fault is None
    assert issubclass(DeviceError, service.CANNOT_RUN)  # at warm-up: one line, and not ready
    runner.close()


def test_what_fails_while_a_runner_opens_leaves_nothing_taken(plain: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = with_gpu(plain)
    monkeypatch.setattr(HostSession, "fails", True)
    with pytest.raises(DeviceError, match="CUDA failure 700"):
        on_host(plain, machine)
    assert not machine.module.engine.cudart.leaks


def test_a_session_on_a_gpu_sees_batches_of_one_size_from_one_thread(plain: Artifact) -> None:
    """Another size costs it the plans of all its convolutions, another thread a CUDA graph (docs/gpu.md)."""
    machine = with_gpu(plain)
    runner, captured = on_host(plain, machine)
    sizes = buckets_of(plain.manifest.max_batch_size)
    largest = sizes[-1]
    with runner, ThreadPoolExecutor(3) as callers:
        pixels = np.random.default_rng(0).integers(0, 256, (largest + 3, 32, 32, 3), np.uint8)
        counts = (1, 3, 5, largest, largest + 3)
        found = list(callers.map(lambda count: runner.infer(pixels[:count]), counts))
        for count, logits in zip(counts, found, strict=True):
            expected = on_cpu(plain.folder / GRAPH_FILE).run(None, {"images": pixels[:count]})[0]
            np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert [shape[0] for each in captured for _, shape in each] == list(sizes)
        assert len({thread for each in captured for thread, _ in each}) == 1
    assert not machine.module.engine.cudart.leaks


def test_a_classifier_that_cannot_open_everything_keeps_nothing_open(
    engine: Artifact, exported_pair: tuple[str, str], settings: Settings
) -> None:
    machine = with_gpu(engine)
    with pytest.raises(UnavailableError):
        Classifier((engine.tag, exported_pair[0]), asking(settings, "tensorrt_rtx"), machine)
    assert not machine.module.engine.cudart.leaks


@pytest.mark.no_gpu
@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "tensorrt_rtx", "tensorrt"])
def test_the_real_service_does_not_start_on_the_cpu_instead(runtime: str, engine: Artifact) -> None:
    environment = {"SERVING_MODELS": engine.tag, "SERVING_RUNTIME": runtime}
    with pytest.raises(ServiceError) as caught, local_service(environment=environment, folder=ROOT):
        pass
    message = str(caught.value)
    assert f"cannot be served as SERVING_RUNTIME={runtime} asks" in message
    assert "Traceback" not in message
    (line,) = [line for line in message.splitlines() if "asks: " in line]
    assert "no usable CUDA device" in line or "has no engine of it" in line


@pytest.mark.no_gpu
def test_the_real_service_says_what_auto_passed_over(engine: Artifact) -> None:
    import httpx2 as httpx

    with local_service(environment={"SERVING_MODELS": engine.tag}, folder=ROOT) as running:
        (variant,) = httpx.get(f"{running.url}/variants").json()["variants"]
        assert variant["runtime"].startswith("onnxruntime ")
        assert variant["device"] == "cpu"
        assert variant["engine"] is None
        log = running.log()
    (line,) = [line for line in log.splitlines() if "served by" in line]
    assert "served by onnxruntime (not tensorrt: " in line
    assert "not tensorrt_rtx: no usable CUDA device" in line
    assert "not onnxruntime-cuda: no usable CUDA device" in line
