"""What we are built on reports home unless it is told not to. These show that it is told, and that it would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.local_service import local_service
from tests.conftest import ROOT

ONNX_RUNTIMES = ".onnxruntime"  # a folder in the home directory: an identifier, and what is still to be sent
IMPORTED = (
    "serving.service",
    "serving.runners.onnxruntime_runner",
    "export.graph_session",
    "export.bench",
    "gpu_check",
)
BENTOMLS = "Tracking Payload"
SHOW = {"__BENTOML_DEBUG_USAGE": "True"}  # it logs its reports, and sends none


def left_by(code: str, home: Path) -> list[Path]:
    """Under an environment that says nothing of tests or CI, where ONNX Runtime reports nothing by itself."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "MPLCONFIGDIR": str(home), "BENTOML_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return list(home.rglob(ONNX_RUNTIMES))


@pytest.mark.parametrize("module", IMPORTED)
def test_onnx_runtime_is_told_to_report_nothing(module: str, tmp_path: Path) -> None:
    assert not left_by(f"import {module}, onnxruntime", tmp_path)


def test_onnx_runtimes_reports_would_be_noticed(tmp_path: Path) -> None:
    assert left_by("import onnxruntime", tmp_path)


@pytest.mark.parametrize(("told", "reports"), [({}, False), ({"BENTOML_DO_NOT_TRACK": "False"}, True)])
def test_bentoml_reports_what_it_serves_where_it_is_told_to_alone(
    told: dict[str, str], reports: bool, exported_pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENTOML_DO_NOT_TRACK")
    with local_service(environment={"SERVING_MODELS": exported_pair[0], **SHOW, **told}, folder=ROOT) as running:
        assert (BENTOMLS in running.log()) is reports
