"""Deploy on the cluster that kubectl reaches, roll out, kill a pod and stop a node, all under an open workload.

Prints what became of the requests. The load comes from a pod of its own inside the cluster, at a steady rate whatever
happens to those before. Everything is in a namespace of its own, which is deleted at the end.

Images have to be where the nodes find them: `make image image-loadtest`, then push them, or load them into the nodes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deploy.kube_check import OVERLAYS, ManifestError, objects, render

Json = dict[str, Any]
LOAD = "preflight-load"
SETTLES_S = 15  # of load alone before, between and after what is done to the service
READY_WITHIN = "180s"


Deed = Callable[["Cluster", argparse.Namespace], None]


class UnmetError(RuntimeError):
    """The cluster did not do what the test is about."""


class Cluster:
    """The one that kubectl reaches, and a namespace in it."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Raises CalledProcessError; kubectl has said why."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        return subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True).stdout

    def rolled_out(self) -> None:
        self.kubectl("rollout", "status", "deployment/preflight", f"--timeout={READY_WITHIN}")

    def version(self) -> Json:
        """Of the API server, and of each node."""
        server = json.loads(self.kubectl("version", "--output", "json"))["serverVersion"]["gitVersion"]
        nodes = json.loads(self.kubectl("get", "nodes", "--output", "json"))["items"]
        told = ("kubeletVersion", "containerRuntimeVersion", "kernelVersion")
        info = {each["metadata"]["name"]: each["status"]["nodeInfo"] for each in nodes}
        return {"server": server, "nodes": {name: {key: of[key] for key in told} for name, of in info.items()}}

    def url(self) -> str:
        """Of the service, by its address: whether names are resolved is not what is asked here."""
        return "http://" + self.kubectl("get", "service", "preflight", "--output", "jsonpath={.spec.clusterIP}")

    def pods(self, selected: str = "app.kubernetes.io/name=preflight") -> list[Json]:
        found: list[Json] = json.loads(self.kubectl("get", "pods", "--selector", selected, "--output", "json"))["items"]
        return found

    def ready_apart_from(self, node: str) -> int:
        """How many pods of the service are ready on other nodes; what a stopped one says of its own is old."""
        return sum(is_ready(pod) for pod in self.pods() if pod["spec"].get("nodeName") != node)


def is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def deployed(overlay: str, image: str, cpu: str = "") -> str:
    """The overlay's manifests with this image and, where it is given, this much CPU for each pod, as YAML."""
    found = objects(render(OVERLAYS / overlay))
    for each in found:
        if each["kind"] == "Deployment":
            container = each["spec"]["template"]["spec"]["containers"][0]
            container["image"] = image
            if cpu:
                for bound in container["resources"].values():
                    bound["cpu"] = cpu
    return yaml.safe_dump_all(found)


def load_pod(image: str, url: str, rate: float, seconds: float) -> str:
    """It carries no label of the service's, so that its policy does not keep the load in."""
    command = ["python", "-m", "loadtests.steady", url]
    container = {
        "name": "load",
        "image": image,
        "command": [*command, "--rate", f"{rate:g}", "--seconds", f"{seconds:g}"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return yaml.safe_dump(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": LOAD, "labels": {LOAD: ""}}, "spec": spec}
    )


def roll_out(cluster: Cluster, options: argparse.Namespace) -> None:
    cluster.kubectl("set", "image", "deployment/preflight", f"preflight={options.to_image}")
    cluster.rolled_out()


def kill_pod(cluster: Cluster, options: argparse.Namespace) -> None:  # noqa: ARG001  all three are called alike
    name = cluster.pods()[0]["metadata"]["name"]
    cluster.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    cluster.rolled_out()


def stop_node(cluster: Cluster, options: argparse.Namespace) -> None:
    """One that runs a pod of the service and not the load; until as many pods as before are ready on others."""
    (load,) = cluster.pods(LOAD)
    pods = cluster.pods()
    nodes = {pod["spec"]["nodeName"] for pod in pods} - {load["spec"]["nodeName"]}
    if not nodes:
        raise UnmetError(f"every pod of the service is on {load['spec']['nodeName']}, where the load comes from")
    node = min(nodes)
    subprocess.run([word.format(node=node) for word in shlex.split(options.stop_node)], check=True)
    given_up = time.monotonic() + options.takes
    while cluster.ready_apart_from(node) < len(pods):
        if time.monotonic() > given_up:
            raise UnmetError(f"{node} was stopped, and its pods were not replaced in {options.takes:g} s (--takes)")
        time.sleep(1)


def under_load(cluster: Cluster, options: argparse.Namespace, what: str, do: Deed) -> Json:
    """Do it while requests go on; what became of them, and how long it took."""
    seconds = 2 * SETTLES_S + options.takes
    cluster.kubectl("delete", "pod", LOAD, "--ignore-not-found", "--wait")
    cluster.kubectl(
        "apply", "--filename", "-", given=load_pod(options.load_image, cluster.url(), options.rate, seconds)
    )
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{LOAD}", f"--timeout={READY_WITHIN}")
    time.sleep(SETTLES_S)
    begun = time.perf_counter()
    do(cluster, options)
    took_s = time.perf_counter() - begun
    log = cluster.kubectl("logs", "--follow", LOAD).strip()  # until the load has ended
    if not log.endswith("}"):
        raise UnmetError(f"{LOAD} did not report, its log ends with {log[-300:]!r}")
    return {"what": what, "begun_s": SETTLES_S, "took_s": round(took_s, 1), **json.loads(log.splitlines()[-1])}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m deploy.kube_e2e", description=__doc__)
    top.add_argument("--image", default="preflight:cpu", help="deployed first")
    top.add_argument("--to-image", default="preflight:next", help="rolled to; another tag of the same image will do")
    top.add_argument("--load-image", default="preflight-loadtest:0.1.0")
    top.add_argument("--overlay", default="plain", choices=sorted(path.name for path in OVERLAYS.iterdir()))
    top.add_argument("--cpu", default="", help="of each pod, for nodes too small for three (default: the overlay's)")
    top.add_argument("--rate", type=float, default=50, help="requests a second")
    top.add_argument("--stop-node", metavar="COMMAND", help="such as 'ssh {node} sudo poweroff -f'; else no node is")
    top.add_argument("--takes", type=float, default=90, help="seconds to allow a rollout, or a node's pods elsewhere")
    top.add_argument("--namespace", default="preflight-e2e", help="made, and deleted at the end")
    top.add_argument("--out", type=Path, default=Path("build/kube-e2e.json"))
    return top


def write(out: Path, report: Json) -> None:
    """Anew after each deed: what was measured stays when a later one fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    options = parser().parse_args()
    cluster = Cluster(options.namespace)
    deeds = {"rollout": roll_out, "killed pod": kill_pod}
    deeds |= {"stopped node": stop_node} if options.stop_node else {}
    reports: list[Json] = []
    try:
        measured = {"cluster": cluster.version(), "options": vars(options) | {"out": str(options.out)}}
        cluster.kubectl("create", "namespace", options.namespace)
        try:
            cluster.kubectl("apply", "--filename", "-", given=deployed(options.overlay, options.image, options.cpu))
            cluster.rolled_out()
            for what, do in deeds.items():
                reports.append(report := under_load(cluster, options, what, do))
                print(f"{what}: {report['failed']} of {report['requests']} failed {report['by']}, {report['took_s']} s")
                write(options.out, {**measured, "reports": reports})
        finally:
            cluster.kubectl("delete", "namespace", options.namespace, "--wait=false")
    except FileNotFoundError:
        sys.exit("kubectl was not found; https://kubernetes.io/docs/tasks/tools")
    except (ManifestError, UnmetError) as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}; does `kubectl cluster-info` answer, and do its nodes have the images?")


if __name__ == "__main__":
    main()
