"""What several tests share: the data folder, a private model store, exported artifacts and a running service."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from export.cuda import UnavailableError
from loadtests.local_service import LocalService, held_port, local_service
from serving.runners.machine import Machine

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BASE_IMAGE = os.environ.get("BASE_IMAGE", "")  # of the container that tests build
NEIGHBOURS = ("NGINX_IMAGE", "PROMETHEUS_IMAGE")  # variables of deploy/compose.yaml
# Where `make test` has put it; it brings all libraries with it but libb64.
PERF_ANALYZER = Path(sys.prefix) / "perf-analyzer" / "bin" / "perf_analyzer"
PERF_ANALYZER_LIBRARIES = {"LD_LIBRARY_PATH": str(PERF_ANALYZER.parents[1] / "nvidia" / "cuda_runtime" / "lib")}
PAIR = ("resnet20-postact", "resnet20-preact")

BENTOML_HOME = tempfile.TemporaryDirectory(prefix="preflight-tests-")
os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": BENTOML_HOME.name}  # BentoML reads them at import
# Whatever the number of cores, tests know their worker; and draining costs each service that they stop its full time.
os.environ |= {"SERVING_WORKERS": "1", "SERVING_DRAIN_MS": "0"}
# Processes of pytest-xdist are as many as cores: two threads of torch in each only wait for each other, spinning.
os.environ |= {"OMP_NUM_THREADS": "1"} if "PYTEST_XDIST_WORKER" in os.environ else {}


settings.register_profile("few", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("many", max_examples=10_000, deadline=None, database=None)  # `make fuzz`
settings.load_profile("few")


LONGEST = ("test_documented_commands.py", "test_gpu_check.py")  # begun first: nobody waits for them at the end


def pytest_configure(config: pytest.Config) -> None:
    # `nohup make test &` has Ctrl-C ignored, by all that tests start too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "shared_data: needs CIFAR-10 and odd images in ../shared/data")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line("markers", "wrk: needs wrk, the client of the serving benchmark")
    config.addinivalue_line("markers", "perf_analyzer: needs Triton's load generator, and libb64 for it")
    config.addinivalue_line("markers", "browser: needs Chromium, to look at pages")
    config.addinivalue_line("markers", "docker: needs a container engine with the image BASE_IMAGE to build on")
    config.addinivalue_line("markers", "compose: needs docker compose, and images of nginx and Prometheus, beside that")
    config.addinivalue_line("markers", "kubectl: needs kubectl or kustomize, which render overlays")
    config.addinivalue_line("markers", "prometheus: needs Prometheus and its promtool")
    config.addinivalue_line("markers", "nginx: needs nginx and openssl")
    config.addinivalue_line("markers", "no_gpu: is about a machine without a CUDA device")


def pytest_unconfigure() -> None:
    BENTOML_HOME.cleanup()


def has(*programs: str) -> bool:
    return all(shutil.which(program) for program in programs)


def answers(*command: str, **environment: str) -> bool:
    if not has(command[0]):
        return False
    return subprocess.run(command, capture_output=True, env=os.environ | environment).returncode == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_gpu = not isinstance(Machine().cuda, UnavailableError)
    unmet = {
        "shared_data": (SHARED_DATA.is_dir(), "needs the data sets in ../shared/data"),
        "wrk": (has("wrk"), "needs wrk (apt install wrk)"),
        "perf_analyzer": (
            answers(str(PERF_ANALYZER), "--version", **PERF_ANALYZER_LIBRARIES),
            "needs Triton's perf_analyzer, which make test installs, and libb64 (apt install libb64-0d)",
        ),
        "browser": (CHROMIUM is not None, "needs Chromium (apt install chromium)"),
        "docker": (
            bool(BASE_IMAGE) and answers("docker", "image", "inspect", BASE_IMAGE),
            "needs Docker, and BASE_IMAGE set to an image with Python 3.11 that it has",
        ),
        "compose": (
            all(answers("docker", "image", "inspect", os.environ.get(name, "")) for name in NEIGHBOURS)
            and answers("docker", "compose", "version"),
            f"needs docker compose, and {' and '.join(NEIGHBOURS)} set to images that the engine has",
        ),
        "kubectl": (has("kubectl") or has("kustomize"), "needs kubectl or kustomize"),
        "prometheus": (has("prometheus", "promtool"), "needs Prometheus (apt install prometheus)"),
        "nginx": (has("nginx", "openssl"), "needs nginx and openssl (apt install nginx-light openssl)"),
        "gpu": (has_gpu, "needs a CUDA device"),
        "no_gpu": (not has_gpu, "needs a machine without a CUDA device"),
    }
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        for name, (is_met, reason) in unmet.items():
            if item.get_closest_marker(name) and not is_met:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Real photographs that come inside scikit-image."""
    from importlib.resources import files

    return Path(str(files("skimage"))) / "data"


def registered(*arguments: str) -> tuple[str, ...]:
    """The tags of what `python -m export` makes of these arguments."""
    from export.__main__ import choices, parser, settings_of
    from export.pipeline import export

    options = parser().parse_args(arguments)
    return tuple(export(choice, settings_of(options)) for choice in choices(options))


@pytest.fixture(scope="session", autouse=True)
def each_network_is_converted_once() -> Iterator[None]:
    """By every export in this process; commands, which are processes of their own, convert anew."""
    from export import pipeline
    from tests.conversions import converted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "to_onnx", converted)
        yield


@pytest.fixture(scope="session")
def exported_pair() -> tuple[str, str]:
    """The exact tags of the shipped pair."""
    first, second = registered(*PAIR)
    return first, second


@pytest.fixture
def port() -> Iterator[int]:
    """Where nobody answers until the test makes somebody."""
    with held_port() as port:
        yield port


@pytest.fixture(scope="session")
def service(exported_pair: tuple[str, str]) -> Iterator[LocalService]:
    """A real `bentoml serve` with the shipped pair."""
    with local_service(environment={"SERVING_MODELS": ",".join(exported_pair)}, folder=ROOT) as running:
        yield running
        assert psutil.Process(running.pid).status() != psutil.STATUS_ZOMBIE, running.log()  # all later tests failed
