"""Artifacts in BentoML's model store: name = variant, version = runtime, precision and digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from export.artifact import Manifest, version_of


def register(folder: Path, manifest: Manifest) -> str:
    """Copy a finished artifact into the store and return its exact tag; an equal one that is there already is kept."""
    tag = f"{manifest.variant}:{version_of(manifest)}"
    try:
        bentoml.models.get(tag)
    except NotFound:
        with bentoml.models.create(tag, labels={"trained": str(manifest.trained).lower()}) as model:
            shutil.copytree(folder, model.path, dirs_exist_ok=True)
    return tag
