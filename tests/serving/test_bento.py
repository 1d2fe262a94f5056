"""`bentoml build` packs exact versions, and the built bento serves those whatever is registered later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bentoml
import httpx2 as httpx
import pytest
import yaml

from export.__main__ import main
from loadtests.local_service import local_service
from tests.conftest import PAIR, ROOT
from tests.serving.test_http_api import encoded

UNREACHABLE = "http://127.0.0.1:9"
OFFLINE = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PIP_INDEX_URL", "UV_INDEX_URL"), UNREACHABLE)


def bentoml_command(*arguments: str) -> str:
    """Run it with every way to the network leading nowhere."""
    command = [sys.executable, "-m", "bentoml", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **OFFLINE}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def home(exported_pair: tuple[str, str], tmp_path: Path) -> Path:
    """Of BentoML, with the same models and no bentos."""
    (tmp_path / "models").symlink_to(Path(bentoml.models.get(exported_pair[0]).path).parents[1])
    return tmp_path


def test_make_build_tells_what_was_packed(exported_pair: tuple[str, str], home: Path) -> None:
    """VARIANTS say what is exported, bentofile.yaml what is packed."""
    command = [
        "make",
        "--no-print-directory",
        "--old-file",
        "export",
        "build",
        f"VARIANTS={PAIR[1]}",
        f"VENV={sys.prefix}",
    ]
    environment = {**os.environ, **OFFLINE, "BENTOML_HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, told = done.stdout.partition("It holds what bentofile.yaml names, VARIANTS or not:\n")
    assert {tag.partition(":")[0] for tag in told.split()} == set(PAIR)
    assert all(bentoml.models.get(tag) for tag in told.split())


def test_a_built_bento_serves_its_own_versions_after_newer_ones_are_registered(
    exported_pair: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tag = bentoml_command("build", "--output", "tag").rpartition("__tag__:")[2]
    content = Path(bentoml_command("get", tag, "-o", "path"))
    packed = yaml.safe_load((content / "bento.yaml").read_text())["models"]
    built_with = {model["alias"]: model["tag"] for model in packed}
    assert set(built_with) == set(PAIR)
    assert not list(content.rglob("resnet.py")), "a serving bento holds no torch code"

    assert main([PAIR[1], "--untrained"]) == 0
    newer = capsys.readouterr().out.strip()
    assert newer not in built_with.values()

    with local_service(tag, folder=tmp_path) as bento:
        served = httpx.get(f"{bento.url}/variants").json()["variants"]
        assert {f"{entry['variant']}:{entry['version']}" for entry in served} == set(built_with.values())
        answer = httpx.post(f"{bento.url}/classify?variant={PAIR[1]}", content=encoded()).json()
        assert f"{PAIR[1]}:{answer['version']}" == built_with[PAIR[1]]
        assert answer["trained"] is True
        assert httpx.get(f"{bento.url}/ui/").status_code == httpx.get(f"{bento.url}/ui/page.js").status_code == 200

    with local_service(folder=ROOT) as source:  # the source tree without pins takes the newest of each
        answer = httpx.post(f"{source.url}/classify?variant={PAIR[1]}", content=encoded()).json()
        assert f"{PAIR[1]}:{answer['version']}" == newer
        assert answer["trained"] is False
    bentoml.models.delete(newer)
