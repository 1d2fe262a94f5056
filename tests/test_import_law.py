"""Which package may import which: read off every import statement, and proved by importing with torch absent."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from tests.conftest import ROOT

OURS = {"models", "export", "serving", "loadtests"}
ALLOWED = {"models": {"models"}, "export": {"export", "models"}, "loadtests": {"loadtests"}}
ENGINES = {
    "export.bound_session",
    "export.buckets",
    "export.cuda",
    "export.engine_cache",
    "export.engine_session",
    "export.flavour",
    "export.graph_session",
    "export.to_engine",
}
TORCH_FREE = {
    "models.spec",
    "models.costly",
    "models.image_steps",
    "models.pixels",
    "models.atomic_file",
    "export.artifact",
    *ENGINES,
}

# Programs that a benchmark starts beside the service: what they decode and infer with has to be the service's own.
PEERS = "loadtests/serving_bench/peers"
ONLY_IN_THEIR_ENVIRONMENT = {"fastapi", "litserve"}


def imports(package: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names = [str(node.module)]
            for name in names:
                yield str(path.relative_to(ROOT)), name


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_the_law_allows(package: str) -> None:
    found = list(imports(package))
    assert found
    broken = [(path, name) for path, name in found if name.partition(".")[0] in OURS - ALLOWED[package]]
    assert not [(path, name) for path, name in broken if not path.startswith(PEERS)]


def test_peers_import_the_torch_free_contract_alone() -> None:
    ours = [(path, name) for path, name in imports(PEERS) if name.partition(".")[0] in OURS - {"loadtests"}]
    assert ours
    allowed = {*TORCH_FREE, "serving.service"}  # what edge.py measures in its own process
    assert not [(path, name) for path, name in ours if name not in allowed]


def test_nothing_but_the_peers_imports_what_only_their_environment_has() -> None:
    found = [(path, name) for package in (*OURS, "tests") for path, name in imports(package)]
    strange = {path for path, name in found if name.partition(".")[0] in ONLY_IN_THEIR_ENVIRONMENT}
    assert strange
    assert all(path.startswith(PEERS) for path in strange)


def test_onnx_runtime_is_imported_by_export_alone_which_tells_it_to_report_nothing() -> None:
    found = [(path, name) for package in OURS for path, name in imports(package)]
    of_it = {path for path, name in found if name.partition(".")[0] == "onnxruntime"}
    assert of_it
    assert all(path.startswith("export/") for path in of_it)


def test_serving_imports_the_torch_free_contract_alone() -> None:
    ours = [(path, name) for path, name in imports("serving") if name.partition(".")[0] in OURS - {"serving"}]
    assert ours
    assert not [(path, name) for path, name in ours if name not in TORCH_FREE]


def test_a_bento_holds_the_torch_free_contract_and_nothing_else_of_it() -> None:
    included = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
    modules = {
        path.removesuffix(".py").replace("/", ".") for path in included if path.startswith(("models/", "export/"))
    }
    assert modules == TORCH_FREE | {"models.__init__", "export.__init__"}


BLOCK = "import sys; sys.modules['torch'] = None; "


def test_serving_imports_with_torch_blocked() -> None:
    runners = ", ".join(f"serving.runners.{name}_runner" for name in ("onnxruntime", "onnxruntime_cuda", "tensorrt"))
    code = BLOCK + f"import serving.service, {runners}; print(serving.service.Preflight.name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "preflight"


def test_serving_on_a_cpu_imports_no_cuda() -> None:
    """14 MB in each process, for a GPU that nobody wants."""
    code = "import sys; import serving.service; assert not [name for name in sys.modules if name.startswith('cuda')]"
    environment = os.environ | {"SERVING_RUNTIME": "onnxruntime"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_blocking_torch_would_be_noticed() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCK + "import models.resnet"], cwd=ROOT, capture_output=True)
    assert done.returncode != 0
