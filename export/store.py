"""Artifacts in BentoML's model store: name = variant, version = runtime, precision and digest."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer  # where the store is has no public reader
from bentoml._internal.models.model import ModelStore
from bentoml.exceptions import BentoMLException

from export.artifact import ArtifactError, Manifest, read_manifest, version_of
from models.atomic_file import write_atomically


def register(folder: Path, manifest: Manifest) -> str:
    """Copy a finished artifact into the store as its variant's newest version; returns the exact tag.

    An equal and whole artifact that is the newest already is kept; a damaged or older copy of it is replaced. It is
    made beside the store and moved into it: BentoML's own way leaves half a model after a kill, and then lists none.

    Raises:
        ArtifactError: the store refuses it.
    """
    version = version_of(manifest)
    tag = f"{manifest.variant}:{version}"
    if is_newest_and_whole(manifest.variant, version):
        return tag
    store = Path(BentoMLContainer.model_store_dir.get())
    with tempfile.TemporaryDirectory(prefix=".preflight-", dir=store.parent) as name:
        labels, beside = {"trained": str(manifest.trained).lower()}, Path(name)
        try:
            with bentoml.models.create(tag, labels=labels, _model_store=ModelStore(beside)) as model:
                shutil.copytree(folder, model.path, dirs_exist_ok=True)
        except BentoMLException as error:
            raise ArtifactError(f"BentoML's model store refuses {tag}: {error}") from error
        place = store / manifest.variant / version
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.rename(beside / "replaced")
        (beside / manifest.variant / version).rename(place)
    write_atomically(place.parent / "latest", version.encode())
    return tag


def is_newest_and_whole(variant: str, version: str) -> bool:
    try:
        newest = bentoml.models.get(variant)
        read_manifest(Path(newest.path), version)
    except (BentoMLException, ArtifactError):
        return False
    return str(newest.tag.version) == version
