"""What the overlays render to, by the schemas of Kubernetes and by what this service needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.kube_check import OVERLAYS, VERSIONS, ManifestError, objects, problems, render
from deploy.kube_e2e import LOAD, deployed, load_pod
from serving.config import Settings, read_settings
from serving.cores import CORES_A_WORKER
from tests.conftest import ROOT
from tests.documents import DOCUMENTS, commands

pytestmark = pytest.mark.kubectl
APPLY = "kubectl apply -k "
NAMES = ("canary", "cpu", "gpu", "plain")
IN_KUBERNETES_1_20 = {("apps/v1", "Deployment"), ("v1", "Service"), ("networking.k8s.io/v1", "NetworkPolicy")}
Objects = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def rendered() -> dict[str, Objects]:
    return {name: {each["kind"]: each for each in objects(render(OVERLAYS / name))} for name in NAMES}


def pod(found: Objects) -> Any:
    return found["Deployment"]["spec"]["template"]


def container(found: Objects) -> Any:
    (only,) = pod(found)["spec"]["containers"]
    return only


def test_the_command_checks_every_overlay_and_lists_what_it_cannot_see() -> None:
    done = subprocess.run([sys.executable, "-m", "deploy.kube_check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[: len(NAMES)]] == list(NAMES)
    assert "Not checked:" in lines


def test_what_a_document_has_applied_is_there_and_valid() -> None:
    applied = [
        command.removeprefix(APPLY)
        for document in DOCUMENTS
        for command in commands(document)
        if command.startswith("kubectl apply")
    ]
    assert applied
    for folder in applied:
        found = objects(render(ROOT / folder))
        assert found
        assert not [wrong for version in VERSIONS for each in found for wrong in problems(each, version)]


def misspelt(found: Objects) -> None:
    container(found)["readinesProbe"] = container(found).pop("readinessProbe")


def a_number_as_text(found: Objects) -> None:
    found["Deployment"]["spec"]["minReadySeconds"] = "5"


def a_list_as_one(found: Objects) -> None:
    container(found)["securityContext"]["capabilities"]["drop"] = "ALL"


def an_old_version(found: Objects) -> None:
    found["Deployment"]["apiVersion"] = "extensions/v1beta1"


@pytest.mark.parametrize("mistake", [misspelt, a_number_as_text, a_list_as_one, an_old_version])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_mistake_is_found(mistake: Callable[[Objects], None], version: str) -> None:
    found = {each["kind"]: each for each in objects(render(OVERLAYS / "plain"))}
    assert not list(problems(found["Deployment"], version))
    mistake(found)
    assert list(problems(found["Deployment"], version))


def test_a_misspelt_field_of_a_kustomization_is_found(tmp_path: Path) -> None:
    copy = shutil.copytree(OVERLAYS.parent, tmp_path / "kubernetes")
    kustomization = copy / "overlays" / "cpu" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("components:", "component:"))
    with pytest.raises(ManifestError, match="component"):
        render(kustomization.parent)


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_is_restricted(rendered: dict[str, Objects], name: str) -> None:
    """The profile `restricted` of the Pod Security Standards, and no token and no writable root besides."""
    spec, rights = pod(rendered[name])["spec"], container(rendered[name])["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert all(set(volume) <= {"name", "emptyDir"} for volume in spec["volumes"])


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_has_the_time_to_drain(rendered: dict[str, Objects], name: str) -> None:
    set_here = {each["name"]: each["value"] for each in container(rendered[name])["env"]}
    settings: Settings = read_settings({**set_here, "SERVING_WORKERS": "1"})
    grace_ms = pod(rendered[name])["spec"]["terminationGracePeriodSeconds"] * 1000
    assert grace_ms > settings.drain_ms + settings.max_timeout_ms
    probe = container(rendered[name])["readinessProbe"]
    assert settings.drain_ms > 1000 * probe["periodSeconds"] * probe["failureThreshold"], "or it leaves unnoticed"


@pytest.mark.parametrize("name", ["canary", "cpu", "plain"])
def test_a_pod_on_cpus_has_the_cores_of_one_worker(rendered: dict[str, Objects], name: str) -> None:
    resources = container(rendered[name])["resources"]
    assert int(resources["limits"]["cpu"]) == int(resources["requests"]["cpu"]) == CORES_A_WORKER


@pytest.mark.parametrize("name", NAMES)
def test_probes_ask_what_they_should_and_rollouts_keep_capacity(rendered: dict[str, Objects], name: str) -> None:
    found = container(rendered[name])
    assert found["livenessProbe"]["httpGet"]["path"] == "/livez", "a restart helps nobody who is merely not ready"
    assert found["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert found["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert rendered[name]["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert len(pod(rendered[name])["spec"]["topologySpreadConstraints"]) == 2


def test_nothing_leaves_a_pod_and_one_port_lets_in(rendered: dict[str, Objects]) -> None:
    policy = rendered["cpu"]["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not policy.get("egress")
    assert policy["ingress"] == [{"ports": [{"port": 3000, "protocol": "TCP"}]}]
    for name in NAMES:
        assert policy["podSelector"]["matchLabels"].items() <= pod(rendered[name])["metadata"]["labels"].items()
        assert container(rendered[name])["ports"] == [{"containerPort": 3000, "name": "http"}]


def test_a_canary_shares_the_service_and_no_pods(rendered: dict[str, Objects]) -> None:
    stable, canary = rendered["cpu"], rendered["canary"]
    assert set(canary) == {"Deployment"}
    assert canary["Deployment"]["metadata"]["name"] != stable["Deployment"]["metadata"]["name"]
    service = stable["Service"]["spec"]["selector"].items()
    selectors = [found["Deployment"]["spec"]["selector"]["matchLabels"] for found in (stable, canary)]
    assert selectors[0] != selectors[1]
    for found, selector in zip((stable, canary), selectors, strict=True):
        labels = pod(found)["metadata"]["labels"].items()
        assert service <= labels
        assert selector.items() <= labels


def test_the_autoscaler_has_the_number_of_pods_to_itself(rendered: dict[str, Objects]) -> None:
    for name in ("cpu", "gpu"):
        found = rendered[name]
        scaler = found["HorizontalPodAutoscaler"]["spec"]
        assert scaler["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
        assert "replicas" not in found["Deployment"]["spec"]
        budget = found["PodDisruptionBudget"]["spec"]
        assert budget["selector"]["matchLabels"].items() <= pod(found)["metadata"]["labels"].items()
        assert budget["maxUnavailable"] < scaler["minReplicas"]


def test_the_plain_overlay_runs_on_old_clusters(rendered: dict[str, Objects]) -> None:
    assert {(each["apiVersion"], each["kind"]) for each in rendered["plain"].values()} == IN_KUBERNETES_1_20
    assert rendered["plain"]["Deployment"]["spec"]["replicas"] == 2


def test_a_gpu_pod_asks_for_one_gpu(rendered: dict[str, Objects]) -> None:
    found = container(rendered["gpu"])
    assert found["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert found["image"] == "preflight:gpu"
    assert {each["name"] for each in found["env"]} > {"SERVING_ENGINES", "SERVING_DRAIN_MS"}


def test_locust_comes_as_a_component(tmp_path: Path) -> None:
    copy = shutil.copytree(OVERLAYS.parent, tmp_path / "kubernetes")
    kustomization = copy / "overlays" / "plain" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text() + "components: [../../components/loadtest]\n")
    found = [each for each in objects(render(kustomization.parent)) if each["metadata"]["name"].startswith("locust")]
    assert [(each["kind"], each["metadata"]["name"]) for each in found] == [
        ("Service", "locust"),
        ("Deployment", "locust-master"),
        ("Deployment", "locust-worker"),
    ]
    assert not [wrong for version in VERSIONS for each in found for wrong in problems(each, version)]
    for each in found[1:]:
        assert pod({"Deployment": each})["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container({"Deployment": each})["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_load_of_the_cluster_test_is_a_valid_pod_that_no_policy_of_the_service_holds(
    rendered: dict[str, Objects],
) -> None:
    (load,) = objects(load_pod("preflight-loadtest:0.1.0", "http://10.96.0.7", 50, 60))
    assert not [wrong for version in VERSIONS for wrong in problems(load, version)]
    assert set(load["metadata"]["labels"]) == {LOAD}
    named = {each["kind"]: each for each in objects(deployed("plain", "registry.example/preflight:7", "500m"))}
    assert {bound["cpu"] for bound in container(named)["resources"].values()} == {"500m"}
    assert container(named)["image"] == "registry.example/preflight:7"
    assert named["Service"] == rendered["plain"]["Service"]
