"""What tests of the image and of a host share."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from tests.conftest import BASE_IMAGE, ROOT
from tests.deploy.engine import docker


@pytest.fixture(scope="session")
def image(exported_pair: tuple[str, str]) -> Iterator[str]:
    tag = f"preflight-test:{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "deploy.image", "cpu", "--tag", tag, "--base-image", BASE_IMAGE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield tag
    docker("image", "rm", "--force", tag)
