"""What our code asks of TensorRT exists in the real bindings of TensorRT 10 and 11."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import bentoml
import pytest

from export.__main__ import main
from export.artifact import (
    GRAPH_FILE,
    Runtime,
)
from export.engine_cache import EngineCache
from export.to_engine import build
from tests.export.test_engine_session import described
from tests.host_gpu import tensorrt_rtx
from tests.host_gpu.engines import CLASSES, OWN, RTX_ALONE


class Recorder:
    """Stands before an object of TensorRT and notes each name that is asked of it, by the object's class."""

    def __init__(self, real: Any, used: set[tuple[str, str]]) -> None:
        object.__setattr__(self, "real", real)
        object.__setattr__(self, "used", used)

    def __getattr__(self, name: str) -> Any:
        owner = self.real
        kind = "" if owner is tensorrt_rtx else owner.__name__ if isinstance(owner, type) else type(owner).__name__
        self.used.add((kind, name))
        found = getattr(owner, name)
        if name in {"ILogger", "IProgressMonitor"} or not callable(found):
            return found
        return Recorder(found, self.used)

    def __setattr__(self, name: str, value: Any) -> None:
        self.used.add((type(self.real).__name__, name))
        setattr(self.real, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        plain = [each.real if isinstance(each, Recorder) else each for each in arguments]
        result = self.real(*plain, **{k: v.real if isinstance(v, Recorder) else v for k, v in named.items()})
        is_plain = isinstance(result, tensorrt_rtx.IHostMemory)  # a buffer, which nothing can stand before
        return result if is_plain or not type(result).__module__.startswith("tensorrt") else Recorder(result, self.used)


@pytest.fixture(scope="module")
def names_used(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """What our builder asks of TensorRT where the flavour is `tensorrt`, noted while TensorRT-RTX builds for it."""
    used: set[tuple[str, str]] = set()
    folder = tmp_path_factory.mktemp("engine")
    assert main(["resnet8-preact", "--untrained", "--precision", "fp16"]) == 0
    graph = Path(bentoml.models.get("resnet8-preact").path) / GRAPH_FILE
    engine = described(Runtime.TENSORRT, optimization_level=3)
    steps: list[tuple[str, int, int]] = []
    recorder: Any = Recorder(tensorrt_rtx, used)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Timing cache operations are no-ops in TensorRT-RTX")
        content = build(recorder, graph, engine, EngineCache(folder), lambda *step: steps.append(step))
    assert {phase for phase, *_ in steps} >= {"Building engine", "Optimizing graph"}
    assert all(0 <= done <= total for _, done, total in steps)
    assert len(content) > 1e5
    return used


STUBS = """
#define STUB(name) void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL) STUB(createInferRefitter_INTERNAL) STUB(createInferRuntime_INTERNAL)
STUB(createNvOnnxParserRefitter_INTERNAL) STUB(createNvOnnxParser_INTERNAL) STUB(getBuilderPluginRegistry)
STUB(getNvOnnxParserVersion) STUB(getPluginRegistry) STUB(initLibNvInferPlugins)
"""
LISTING = """
import inspect, json, tensorrt_bindings as trt
names = {name: dir(each) for name, each in vars(trt).items() if inspect.isclass(each)}
print(json.dumps({"": dir(trt), "version": [trt.__version__]} | names))
"""


@pytest.fixture(scope="module", params=["10", "11"])
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The names in NVIDIA's real bindings, imported over libraries without content."""
    compiler = shutil.which("cc")
    installed = Path(sys.prefix) / f"tensorrt-{request.param}" / "tensorrt_bindings"
    if compiler is None or not installed.is_dir():
        pytest.skip("needs a C compiler, and TensorRT's bindings, which `make test` installs")
    folder = tmp_path_factory.mktemp("bindings")
    shutil.copytree(installed, folder / "tensorrt_bindings")
    (folder / "stubs.c").write_text(STUBS)
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = folder / "tensorrt_bindings" / f"lib{name}.so.{request.param}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "stubs.c"], check=True)
    done = subprocess.run([sys.executable, "-c", LISTING], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed: dict[str, list[str]] = json.loads(done.stdout)
    assert listed["version"][0].split(".")[0] == request.param
    return listed


def test_the_bindings_have_what_the_builder_uses(
    bindings: dict[str, list[str]], names_used: set[tuple[str, str]]
) -> None:
    classes = {kind for kind, _ in names_used}
    assert {"", "Builder", "IBuilderConfig", "INetworkDefinition", "OnnxParser", "BuilderFlag", "ITensor"} <= classes
    missing = {(kind, name) for kind, name in names_used if name not in bindings.get(kind, [])}
    assert not missing


def test_the_bindings_have_what_a_session_uses(bindings: dict[str, list[str]]) -> None:
    """The double of a GPU stands for exactly that; its TensorRT goes without what is TensorRT-RTX's alone."""
    for kind, double in CLASSES.items():
        used = {name for name in dir(double) if not name.startswith("_")} - OWN - RTX_ALONE
        assert not used - set(bindings[kind])
    assert "USER_MANAGED" in bindings["ExecutionContextAllocationStrategy"]
    assert "INPUT" in bindings["TensorIOMode"]
    assert {"ILogger", "IProgressMonitor", "nptype", "uint8", "float32"} <= set(bindings[""])
    assert {"ERROR", "INTERNAL_ERROR"} <= set(bindings["ILogger"])


def test_a_name_that_is_gone_would_be_noticed(bindings: dict[str, list[str]]) -> None:
    assert "create_runtime_cache" not in bindings["IRuntimeConfig"]
    assert ("FP16" in bindings["BuilderFlag"]) is bindings["version"][0].startswith("10.")
