"""One host, as docs/deployment.md tells: its commands, typed in their order, by the engine's own `docker compose`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from loadtests.local_service import held_port
from tests.conftest import PAIR, ROOT
from tests.deploy.engine import docker, inspected
from tests.documents import DOCS, commands
from tests.serving.test_http_api import encoded

UP, CLASSIFY, DOWN = "make up", "curl --cacert", "make down"
RULES = 11


class Host:
    """Whoever types the commands: in a copy of what they need, under a project's name and on ports of their own."""

    def __init__(self, folder: Path, image: str, https_port: int, prometheus_port: int) -> None:
        self.folder, self.https_port, self.prometheus_port = folder, https_port, prometheus_port
        self.project = f"preflight-test-{uuid.uuid4().hex}"
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": self.project,
            "PREFLIGHT_IMAGE": image,
            "HTTPS_PORT": str(self.https_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
        }

    def run(self, command: str) -> str:
        command = command.replace(":8443/", f":{self.https_port}/")
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def containers(self) -> dict[str, str]:
        """The name of each by the service that it is of."""
        label = "com.docker.compose.service"
        listed = docker(
            "ps",
            "--filter",
            f"label=com.docker.compose.project={self.project}",
            "--format",
            f'{{{{.Label "{label}"}}}} {{{{.Names}}}}',
        )
        return dict(line.split() for line in listed.splitlines())

    def prometheus(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}", params=parameters)
        return answer.raise_for_status().json()["data"]

    def rules(self) -> list[Any]:
        return [rule for group in self.prometheus("rules")["groups"] for rule in group["rules"]]

    def until_measured(self) -> None:
        """Until Prometheus has seen an answer and evaluated every rule, which it does every 15 s."""
        ends = time.monotonic() + 60
        classified = 'preflight_requests_total{endpoint="/classify",status="200"}'
        while time.monotonic() < ends:
            with suppress(httpx.HTTPError):  # it is still starting
                seen = self.prometheus("query", query=classified)["result"]
                if seen and all(rule["health"] != "unknown" for rule in self.rules()):
                    return
            time.sleep(0.5)
        raise AssertionError((self.prometheus("targets"), self.rules()))


@pytest.fixture
def told() -> dict[str, str]:
    """The commands of the document, by how they begin."""
    found = {}
    for command in commands(DOCS / "deployment.md"):
        found |= {beginning: command for beginning in (UP, CLASSIFY, DOWN) if command.startswith(beginning)}
    assert list(found) == [UP, CLASSIFY, DOWN]
    return found


@pytest.fixture
def host(image: str, tmp_path: Path, told: dict[str, str]) -> Iterator[Host]:
    shutil.copy2(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("tls"))
    (tmp_path / "cat.png").write_bytes(encoded())
    with held_port() as https_port, held_port() as prometheus_port:
        host = Host(tmp_path, image, https_port, prometheus_port)
        try:
            yield host
        finally:
            host.run(told[DOWN])  # a second time, where all went well: it ends nothing, and says so
            subprocess.run(["docker", "volume", "rm", f"{host.project}_measurements"], capture_output=True)


@pytest.mark.docker
@pytest.mark.compose
def test_make_up_serves_over_tls_and_is_measured_and_make_down_ends_it(host: Host, told: dict[str, str]) -> None:
    host.run(told[UP])
    names = host.containers()
    assert set(names) == {"preflight", "nginx", "prometheus"}
    assert json.loads(host.run(told[CLASSIFY]))["variant"] in PAIR

    published = {
        service: [binding["HostIp"] for bindings in ports.values() for binding in bindings or []]
        for service, name in names.items()
        if (ports := inspected(name)["NetworkSettings"]["Ports"]) is not None
    }
    assert published["preflight"] == []
    assert published["prometheus"] == ["127.0.0.1"]
    assert inspected(names["nginx"])["Config"]["User"].split(":")[0] not in {"", "0"}, "never as root"
    ca = str(host.folder / "deploy" / "tls" / "certificate.pem")
    kept_in = host.run(
        f"curl --silent --output /dev/null --write-out %{{http_code}} --cacert {ca} https://localhost:8443/metrics"
    )
    assert kept_in == "404"

    host.until_measured()
    assert [rule["health"] for rule in host.rules()] == ["ok"] * RULES

    host.run(told[DOWN])
    assert not host.containers()
