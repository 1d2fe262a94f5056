"""The container image: built by the command that users have, run with all rights taken away and no way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import bentoml
import httpx2 as httpx
import pytest
import yaml

from deploy.image import Flavour, bentofile, build_bento
from export.artifact import MANIFEST, file_sha256
from loadtests.startup import measure_startup
from serving.service import IMAGE
from tests.conftest import BASE_IMAGE, PAIR, ROOT
from tests.deploy.engine import docker, inspected
from tests.serving.test_http_api import encoded
from tests.test_no_telemetry import ONNX_RUNTIMES

MAX_BYTES = 480_000_000
UID = 10_001
PROGRAMS_OF_NO_USE = ("gcc", "cc", "make", "git", "uv")
PORT = 3000
OUTSIDE = "192.0.2.1"  # of the addresses for documentation: nobody has it
SENT_WITHIN_S = 5.0  # libraries that report home do so seconds after they are loaded
LEAVE = (
    "import socket; from contextlib import suppress\n"
    "with suppress(OSError): socket.getaddrinfo('registry.example', 443)\n"
    f"with suppress(OSError): socket.create_connection(('{OUTSIDE}', 443), timeout=1)\n"
)


class Container:
    """A running one, by its address on a network without a route out."""

    def __init__(self, name: str, network: str) -> None:
        self.name = name
        self.url = f"http://{inspected(name)['NetworkSettings']['Networks'][network]['IPAddress']}:{PORT}"

    def health(self) -> str:
        return str(inspected(self.name)["State"]["Health"]["Status"])

    def until_healthy(self) -> None:
        """Waits no longer than the image's own health check does."""
        while (health := self.health()) == "starting":
            time.sleep(0.1)
        assert health == "healthy", docker("logs", self.name)

    def inside(self, *command: str) -> str:
        return docker("exec", self.name, *command)

    def sent(self) -> dict[str, int]:
        """What the kernel counted: packets to others, and datagrams, which look-ups of names are."""
        devices = dict(line.split(":") for line in self.inside("cat", "/proc/net/dev").splitlines() if ":" in line)
        (packets,) = [int(counts.split()[9]) for name, counts in devices.items() if name.strip() != "lo"]
        names, values = [line.split() for line in self.inside("grep", "^Udp:", "/proc/net/snmp").splitlines()]
        return {"packets": packets, "datagrams": int(values[names.index("OutDatagrams")])}


@pytest.fixture
def container(image: str) -> Iterator[Container]:
    name = f"preflight-test-{uuid.uuid4().hex}"
    docker("network", "create", "--internal", name)
    rights = ("--read-only", "--tmpfs", "/tmp", "--user", str(UID), "--cap-drop", "ALL")
    try:
        docker(
            "run", "--detach", "--name", name, "--network", name, *rights, "--security-opt", "no-new-privileges", image
        )
        yield Container(name, name)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True)
        docker("network", "rm", name)


@pytest.mark.docker
def test_the_image_is_small_says_what_is_in_it_and_runs_nothing_as_root(
    image: str, exported_pair: tuple[str, str]
) -> None:
    found = inspected(image)
    assert found["Size"] <= MAX_BYTES
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "resnet-preflight"
    assert labels["org.opencontainers.image.base.name"] == BASE_IMAGE
    for tag in exported_pair:
        variant, version = tag.split(":")
        assert labels[f"preflight.artifact.{variant}.version"] == version
        sha256 = file_sha256(Path(bentoml.models.get(tag).path) / MANIFEST)
        assert labels[f"preflight.artifact.{variant}.sha256"] == sha256
    assert found["Config"]["User"].split(":")[0] == str(UID)
    assert found["Config"]["Healthcheck"]["Test"][0] == "CMD", "no shell"
    assert found["Config"]["Entrypoint"][0] == "bentoml", "no shell between the engine and the server"


@pytest.mark.docker
def test_without_rights_and_without_a_way_out_it_classifies_and_drains(
    container: Container, exported_pair: tuple[str, str]
) -> None:
    container.until_healthy()
    assert container.sent() == {"packets": 0, "datagrams": 0}, "before anybody asked"
    served = httpx.get(f"{container.url}/variants").json()["variants"]
    assert {f"{entry['variant']}:{entry['version']}" for entry in served} == set(exported_pair)
    for variant in PAIR:
        answer = httpx.post(f"{container.url}/classify?variant={variant}", content=encoded())
        assert (answer.status_code, answer.json()["variant"]) == (200, variant)
    assert container.inside("id", "-u") == str(UID)
    written = container.inside("find", "/app", "/bento", "-writable", "-not", "-type", "l")
    assert not written, "what it runs is not its own to change"

    time.sleep(SENT_WITHIN_S)
    answers = container.sent()
    assert answers["datagrams"] == 0
    assert ONNX_RUNTIMES not in container.inside("find", "/tmp"), "its reports, had there been a way out"
    container.inside("python", "-c", LEAVE)
    assert all(number > answers[kind] for kind, number in container.sent().items()), "or it would not have been noticed"

    docker("stop", "--time", "30", container.name)
    assert inspected(container.name)["State"]["ExitCode"] == 0, "137 is a server that had to be killed"
    logged = subprocess.run(["docker", "logs", container.name], capture_output=True, text=True)
    assert "SIGTERM: not ready any more" in logged.stdout + logged.stderr
    assert "answered 3 requests in all, 0 left without an answer" in logged.stdout + logged.stderr


KILL = "import psutil; print([child.pid for child in psutil.Process(1).children() if not child.kill()])"


@pytest.mark.docker
def test_a_worker_that_is_killed_is_replaced(container: Container) -> None:
    """Which BentoML leaves to whoever runs the container, and one of several workers that dies does not end that."""
    container.until_healthy()
    killed = container.inside("python", "-c", KILL)
    answer = httpx.post(f"{container.url}/classify", content=encoded(), timeout=60)  # waits until somebody listens
    assert answer.status_code == 200
    assert container.inside("python", "-c", KILL) != killed
    assert inspected(container.name)["RestartCount"] == 0


@pytest.mark.docker
def test_it_holds_what_serving_needs_and_no_more(image: str) -> None:
    listed = json.loads(
        subprocess.run(
            ["docker", "run", "--rm", "--interactive", "--network", "none", "--entrypoint", "python", image, "-"],
            input=(ROOT / "deploy" / "sbom.py").read_text(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    python = {
        component["name"].lower(): component["version"]
        for component in listed["components"]
        if component["purl"].startswith("pkg:pypi/")
    }
    locked = dict(
        line.split(" ;")[0].lower().split("==")
        for line in (ROOT / "requirements" / "serve.txt").read_text().splitlines()
    )
    assert python["bentoml"] == locked["bentoml"]
    assert {name.replace("_", "-") for name in python} <= set(locked)
    licences = [
        component["licenses"][0]["license"]["name"] for component in listed["components"] if "licenses" in component
    ]
    assert len(licences) == len(python)
    assert "not stated" not in licences
    assert any(component["purl"].startswith("pkg:deb/") for component in listed["components"])
    programs = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "which", image, *PROGRAMS_OF_NO_USE],
        capture_output=True,
        text=True,
    )
    assert not programs.stdout


@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")  # in BentoML's build
def test_a_gpu_image_differs_in_its_requirements_alone(exported_pair: tuple[str, str]) -> None:
    bentos = {flavour: build_bento(flavour, IMAGE.base_image) for flavour in Flavour}
    packages = {}
    for flavour, bento in bentos.items():
        lines = Path(bento.path_of("env/python/requirements.txt")).read_text().splitlines()
        packages[flavour] = {line.split("==")[0] for line in lines}
        bentoml.delete(bento.tag)
    assert "onnxruntime" in packages[Flavour.CPU]
    assert "onnxruntime" not in packages[Flavour.GPU], "it and onnxruntime-gpu are one Python package"
    assert {"onnxruntime-gpu", "tensorrt-rtx", "cuda-bindings"} <= packages[Flavour.GPU]
    assert packages[Flavour.CPU] - {"onnxruntime"} <= packages[Flavour.GPU]
    assert not {"torch", "onnx"} & packages[Flavour.GPU]


def test_another_base_image_changes_no_other_line() -> None:
    usual = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert yaml.safe_load(bentofile(Flavour.CPU, "mirror.example/python:3.11")) == {
        **usual,
        "docker": {"base_image": "mirror.example/python:3.11"},
    }


def test_without_docker_it_says_so_in_a_line(exported_pair: tuple[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.image", "cpu"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "docker info" in done.stderr.splitlines()[-1]


@pytest.mark.docker
def test_how_long_a_container_takes_to_be_ready_is_measured(image: str) -> None:
    found = measure_startup(1, image)
    assert found["measure"].startswith("seconds from `docker run --rm --read-only ")
    assert found["least"] == found["most"] > 0
