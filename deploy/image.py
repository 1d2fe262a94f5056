"""Build a container image of the service: `bentoml build`, `bentoml containerize`, then deploy/Dockerfile.

bentofile.yaml stays the description of what is packed. A GPU image differs in its requirements alone, and another base
image in one line; both are written into a copy of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from enum import StrEnum
from pathlib import Path

import bentoml
import yaml
from bentoml import Bento

from export.artifact import MANIFEST, file_sha256
from serving.service import IMAGE

ROOT = Path(__file__).parents[1]
BENTOFILE = ROOT / "bentofile.yaml"
LABELS = "org.opencontainers.image"
ARTIFACT_LABELS = "preflight.artifact"


class Flavour(StrEnum):
    """What the image runs models on."""

    CPU = "cpu"
    GPU = "gpu"


REQUIREMENTS = {Flavour.CPU: "requirements/serve.txt", Flavour.GPU: "requirements/serve-gpu.txt"}


def bentofile(flavour: Flavour, base_image: str) -> str:
    """bentofile.yaml with the flavour's requirements and the base image, as YAML."""
    packed = yaml.safe_load(BENTOFILE.read_text())
    usual = packed["python"]["requirements_txt"]
    packed["python"]["requirements_txt"] = f"./{REQUIREMENTS[flavour]}"
    packed["include"] = [REQUIREMENTS[flavour] if f"./{path}" == usual else path for path in packed["include"]]
    packed["docker"] = {"base_image": base_image}
    return yaml.safe_dump(packed)


def build_bento(flavour: Flavour, base_image: str) -> Bento:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(bentofile(flavour, base_image))
        file.flush()
        return bentoml.bentos.build_bentofile(file.name, build_ctx=str(ROOT))


def labels(bento: Bento, flavour: Flavour, base_image: str) -> dict[str, str]:
    """What is inside, for who has the image alone: versions, and of each artifact its tag and its manifest's sha256."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {
        f"{LABELS}.title": project["name"],
        f"{LABELS}.description": project["description"],
        f"{LABELS}.version": project["version"],
        f"{LABELS}.licenses": project["license"],
        f"{LABELS}.base.name": base_image,
        "preflight.bento": str(bento.tag),
        "preflight.flavour": flavour,
    }
    for model in bento.info.all_models:
        manifest = Path(bentoml.models.get(model.tag).path) / MANIFEST
        found[f"{ARTIFACT_LABELS}.{model.tag.name}.version"] = str(model.tag.version)
        found[f"{ARTIFACT_LABELS}.{model.tag.name}.sha256"] = file_sha256(manifest)
    return found


def build(flavour: Flavour, base_image: str, tag: str) -> None:
    """Raises CalledProcessError where docker or bentoml fails; both have said why."""
    bento = build_bento(flavour, base_image)
    unfinished = f"{tag}-unfinished"
    run(sys.executable, "-m", "bentoml", "containerize", str(bento.tag), "--image-tag", unfinished)
    arguments = {"BENTO_IMAGE": unfinished, "BASE_IMAGE": base_image}
    run(
        *("docker", "build", "--file", str(ROOT / "deploy" / "Dockerfile"), "--tag", tag),
        *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")),
        *(
            part
            for name, value in labels(bento, flavour, base_image).items()
            for part in ("--label", f"{name}={value}")
        ),
        str(ROOT / "deploy"),
    )
    run("docker", "image", "rm", unfinished)


def run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env={"DOCKER_BUILDKIT": "1", **os.environ})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.image", description=__doc__)
    parser.add_argument("flavour", type=Flavour, choices=list(Flavour))
    parser.add_argument("--tag", help="of the image; by default preflight:cpu or preflight:gpu")
    parser.add_argument(
        "--base-image",
        default=IMAGE.base_image,
        help=f"it has Python {IMAGE.python_version}; by default {IMAGE.base_image}",
    )
    options = parser.parse_args()
    try:
        build(options.flavour, options.base_image, options.tag or f"preflight:{options.flavour}")
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} was not found; an image needs Docker, and `docker info` that answers")
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"{' '.join(error.cmd[:3])} ended with {error.returncode}; its output is above. Does `docker info` answer?"
        )


if __name__ == "__main__":
    main()
