"""One host: Prometheus with our rules, nginx with TLS, and what compose.yaml grants."""

from __future__ import annotations

import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from loadtests.local_service import LocalService
from serving.config import Settings
from tests.conftest import ROOT
from tests.serving.test_http_api import encoded

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus"
METRIC = re.compile(r"\bpreflight_\w+")


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True)


@pytest.fixture
def rule_tests(tmp_path: Path) -> Path:
    """With a copy of the rules, for who wants to change them."""
    for path in RULES.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    file = tmp_path / "rules-test.yaml"
    file.write_text((Path(__file__).parent / "rules.yaml").read_text().replace("RULES/", ""))
    return file


@pytest.mark.prometheus
def test_rules_and_configuration_are_valid() -> None:
    done = promtool("check", "config", str(RULES / "prometheus.yaml"))
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout + done.stderr


@pytest.mark.prometheus
def test_alerts_say_what_is_wrong_and_nothing_else(rule_tests: Path) -> None:
    done = promtool("test", "rules", str(rule_tests))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("recording.yaml", 'status=~"5.."', 'status=~"4.."'),
        ("recording.yaml", 'result="differed"', 'result="agreed"'),
        ("alerts.yaml", "== 0", "== 1"),
        ("alerts.yaml", "for: 1m", "for: 10m"),
        ("alerts.yaml", 'stage="queue"', 'stage="infer"'),
    ],
)
def test_a_wrong_rule_would_be_noticed(rule_tests: Path, file: str, right: str, wrong: str) -> None:
    path = rule_tests.parent / file
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong, 1))
    assert promtool("test", "rules", str(rule_tests)).returncode != 0


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    (group,) = yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"]
    tested = (Path(__file__).parent / "rules.yaml").read_text()
    for rule in group["rules"]:
        assert f"alertname: {rule['alert']}" in tested
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.prometheus
def test_prometheus_finds_in_a_real_service_every_metric_that_the_rules_name(
    service: LocalService, port: int, tmp_path: Path
) -> None:
    httpx.post(f"{service.url}/classify", content=encoded())
    configuration = yaml.safe_load((RULES / "prometheus.yaml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES / name) for name in configuration["rule_files"]]
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [service.url.removeprefix("http://")]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    url = f"http://127.0.0.1:{port}"
    address, store = url.removeprefix("http://"), tmp_path / "measurements"
    command = ["prometheus", f"--web.listen-address={address}", f"--storage.tsdb.path={store}"]

    def asked(path: str, **parameters: str) -> Any:
        try:
            answer = httpx.get(f"{url}/api/v1/{path}", params=parameters)
        except httpx.TransportError:
            return []
        return answer.json()["data"] if answer.status_code == 200 else []

    named = {name for path in RULES.glob("*s.yaml") for name in METRIC.findall(path.read_text())}
    named |= set(METRIC.findall((RULES / "recording.yaml").read_text()))
    named -= {"preflight_shadow_total"}  # comes with the first copy, and this service has no shadow
    assert len(named) >= 3
    with running([*command, f"--config.file={tmp_path / 'prometheus.yaml'}"], tmp_path) as process:
        ends = time.monotonic() + 60
        while not named <= set(asked("label/__name__/values")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < ends, (tmp_path / "log").read_text()
            time.sleep(0.1)
        (up,) = asked("query", query='up{job="preflight"}')["result"]
        assert up["value"][1] == "1"
        (classified,) = asked("query", query='preflight_requests_total{endpoint="/classify",status="200"}')["result"]
        assert float(classified["value"][1]) >= 1
        rules = [rule for group in asked("rules")["groups"] for rule in group["rules"]]
        assert len(rules) == 11
        assert not [rule for rule in rules if rule.get("lastError")]


@pytest.fixture
def nginx_folder(tmp_path: Path) -> Path:
    """Its configuration and a certificate made by the Makefile's own command."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    made = subprocess.run(["make", "-s", "deploy/tls/certificate.pem"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (tmp_path / "deploy" / "tls").rename(tmp_path / "tls")
    assert (tmp_path / "tls" / "key.pem").stat().st_mode & 0o077 == 0, "the key is its owner's alone"
    return tmp_path


@pytest.mark.nginx
def test_nginx_answers_over_tls_for_the_service_and_keeps_metrics_to_itself(
    service: LocalService, port: int, nginx_folder: Path
) -> None:
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()
    for usual, here in {
        "preflight:3000": service.url.removeprefix("http://"),
        "8443": str(port),
        "/tmp/": f"{nginx_folder}/",
    }.items():
        assert usual in text
        text = text.replace(usual, here)
    (nginx_folder / "nginx.conf").write_text(text)
    command = ["nginx", "-c", str(nginx_folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    trusted = ssl.create_default_context(cafile=str(nginx_folder / "tls" / "certificate.pem"))
    with (
        running([*command, "-g", "daemon off;"], nginx_folder) as process,
        httpx.Client(base_url=f"https://localhost:{port}", verify=trusted) as client,
    ):
        ends = time.monotonic() + 30
        while True:
            assert process.poll() is None, (nginx_folder / "log").read_text()
            try:
                ready = client.get("/readyz")
                break
            except httpx.TransportError:
                assert time.monotonic() < ends
                time.sleep(0.05)
        assert ready.status_code == 200
        answer = client.post("/classify", content=encoded())
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        assert client.get("/metrics").status_code == 404
        assert httpx.get(f"{service.url}/metrics").status_code == 200


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.mark.parametrize("name", ["preflight", "nginx", "prometheus"])
def test_a_container_of_the_host_has_no_rights(name: str) -> None:
    found = compose()["services"][name]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in found


def test_the_service_of_the_host_has_no_port_outside_and_no_way_out() -> None:
    found = compose()
    service = found["services"]["preflight"]
    assert service["networks"] == ["inner"]
    assert found["networks"]["inner"]["internal"] is True
    assert "ports" not in service
    assert all(port.startswith("127.0.0.1:") for port in found["services"]["prometheus"]["ports"])


def test_limits_in_front_are_no_narrower_than_the_service_own() -> None:
    """So that it is the service's JSON that says what is wrong, and a draining one is not cut short."""
    settings = Settings.model_validate({"workers": 1})
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()

    def number(name: str) -> int:
        (found,) = re.findall(rf"{name} (\d+)", text)
        return int(found)

    assert number("client_max_body_size") << 20 > max(settings.max_batch_bytes, settings.max_image_bytes)
    assert number("proxy_read_timeout") * 1000 > settings.max_timeout_ms
    service = compose()["services"]["preflight"]
    drain_ms = int(service["environment"]["SERVING_DRAIN_MS"])
    assert int(service["stop_grace_period"].removesuffix("s")) * 1000 > drain_ms + settings.max_timeout_ms
