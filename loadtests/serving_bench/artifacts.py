"""The model that all lanes open: found in a model store, or exported into it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.serving_bench.plan import Cell, Network

ROOT = Path(__file__).parents[2]


class ArtifactError(RuntimeError):
    """The export failed; its own words precede this."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """`folder` ends in the version, and that in the digest of all that is inside."""

    home: Path
    folder: Path

    @property
    def tag(self) -> str:
        return f"{self.folder.parent.name}:{self.folder.name}"


def artifact_for(cell: Cell, network: Network, home: Path, jpegs: Sequence[Path]) -> Artifact:
    """The newest of the cell's network and precision."""
    found = newest(home, network, cell.precision)
    if found is None:
        export(cell, network, home, jpegs[0].parent)
        found = newest(home, network, cell.precision)
    if found is None:
        raise ArtifactError(f"{home}: the export of {network.variant} in {cell.precision} left nothing there")
    return found


def newest(home: Path, network: Network, precision: str) -> Artifact | None:
    found = (home / "models" / network.variant).glob(f"onnxruntime-{precision}-*/manifest.json")
    manifest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return Artifact(home, manifest.parent) if manifest is not None else None


def export(cell: Cell, network: Network, home: Path, images: Path) -> None:
    """Random weights do for time; the shipped ones bring their int8 ranges, random ones take them from the JPEGs."""
    command = [sys.executable, "-m", "export", network.variant, "--precision", cell.precision]
    if not network.trained:
        command += ["--untrained", *(["--calibration", str(images.resolve())] if cell.precision == "int8" else [])]
    print(f"$ {' '.join(command)}", file=sys.stderr, flush=True)
    home.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "BENTOML_HOME": str(home.resolve())}
    try:
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=sys.stderr)
    except subprocess.CalledProcessError:
        raise ArtifactError(f"{network.variant} in {cell.precision} could not be exported into {home}") from None
