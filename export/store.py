"""Artifacts in BentoML's model store: name = variant, version = runtime, precision and digest."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException, NotFound

from export.artifact import ArtifactError, Manifest, read_manifest, version_of


def register(folder: Path, manifest: Manifest) -> str:
    """Copy a finished artifact into the store as its variant's newest version; returns the exact tag.

    An equal and whole artifact that is the newest already is kept; a damaged or older copy of it is replaced.

    Raises:
        ArtifactError: the store refuses it.
    """
    version = version_of(manifest)
    tag = f"{manifest.variant}:{version}"
    if is_newest_and_whole(manifest.variant, version):
        return tag
    try:
        with suppress(NotFound):
            bentoml.models.delete(tag)
        with bentoml.models.create(tag, labels={"trained": str(manifest.trained).lower()}) as model:
            shutil.copytree(folder, model.path, dirs_exist_ok=True)
    except BentoMLException as error:
        raise ArtifactError(f"BentoML's model store refuses {tag}: {error}") from error
    return tag


def is_newest_and_whole(variant: str, version: str) -> bool:
    try:
        newest = bentoml.models.get(variant)
        read_manifest(Path(newest.path), version)
    except (BentoMLException, ArtifactError):
        return False
    return str(newest.tag.version) == version
