"""Render every overlay and check it strictly, without a cluster: `make kube-check`.

kubectl renders, and refuses a misspelt field of a kustomization. Kubernetes' own schemas check what it rendered, and
refuse a field that they do not have.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

OVERLAYS = Path(__file__).parent / "kubernetes" / "overlays"
VERSIONS = ("1.25", "1.34", "1.37")  # the oldest that schemas are packaged of, a usual one, the newest
NO_SCHEMA_SEES = (
    "that images exist",
    "whether metrics of Pods reach the autoscaler (the gpu overlay needs an adapter)",
    "rules across fields and objects, such as selectors that match nothing; tests/deploy checks ours",
    "Kubernetes before 1.25: the plain overlay keeps to kinds that 1.20 has, which tests/deploy checks",
    "whether the network plugin enforces NetworkPolicy",
)


class ManifestError(ValueError):
    """An overlay cannot be rendered, or is not what Kubernetes accepts."""


def renderer() -> list[str]:
    """The command before the folder. Raises ManifestError where neither kubectl nor kustomize is installed."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    raise ManifestError("neither kubectl nor kustomize was found; https://kubernetes.io/docs/tasks/tools has both")


def render(folder: Path) -> str:
    done = subprocess.run([*renderer(), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ManifestError(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def objects(rendered: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(rendered) if each]


def problems(found: dict[str, Any], version: str) -> Iterator[str]:
    """What is wrong with one object, where Kubernetes of that version would read it."""
    name = f"{found.get('kind')}/{found.get('metadata', {}).get('name')}, Kubernetes {version}"
    try:
        kubernetes_validate.validate(found, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name}: {'.'.join(str(part) for part in error.path) or 'top level'}: {error.message[:300]}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{name}: {error.message}"


def main() -> None:
    try:
        for folder in sorted(OVERLAYS.iterdir()):
            found = objects(render(folder))
            wrong = [each for version in VERSIONS for one in found for each in problems(one, version)]
            if wrong:
                raise ManifestError("\n".join(f"{folder.name}: {each}" for each in wrong))
            kinds = ", ".join(sorted(one["kind"] for one in found))
            print(f"{folder.name}: {kinds}: valid for Kubernetes {', '.join(VERSIONS)}")
    except ManifestError as error:
        sys.exit(str(error))
    print("Not checked:", *NO_SCHEMA_SEES, sep="\n  ")


if __name__ == "__main__":
    main()
