"""The one place that reads the environment, and the choice of exact model versions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer  # aliases have no public reader in 1.4
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.engine_cache import default_folder

PREFIX = "SERVING_"
MOST_THREADS = 256  # a slip of the keyboard here would take all memory
DEFAULT_VARIANTS = ("resnet20-postact", "resnet20-preact")


class ServingRuntime(StrEnum):
    """What runs the models; `auto` is the first of the others that the machine and the artifact allow."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"
    ONNXRUNTIME_CUDA = "onnxruntime-cuda"
    ONNXRUNTIME = "onnxruntime"


class Engines(StrEnum):
    """Whether TensorRT engines have to be those of the artifact, or are built anew where they do not fit."""

    AS_EXPORTED = "as-exported"
    REBUILD = "rebuild"


class ConfigError(ValueError):
    """A setting, or a model that it names, cannot be used."""


class Settings(BaseModel):
    """Read from `SERVING_<NAME>`; an unknown name is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: str = Field(
        "", description="tags or variant names, separated by commas or spaces; the first is the default variant"
    )
    runtime: ServingRuntime = Field(ServingRuntime.AUTO, description=f"one of {', '.join(ServingRuntime)}")
    engines: Engines = Field(
        Engines.AS_EXPORTED, description="rebuild: before it is ready, build engines that are absent or of another GPU"
    )
    engine_cache: Path = Field(default_factory=default_folder, description="where rebuilt engines are found again")
    max_image_bytes: int = Field(16 << 20, ge=1, description="largest encoded image")
    max_tensor_bytes: int = Field(16 << 20, ge=1, description="largest body of a /v2 inference request")
    max_image_pixels: int = Field(25_000_000, ge=1, description="width times height that will be decoded")
    api_keys_file: Path | None = Field(None, description="whose keys are let in; without it everybody is")
    max_timeout_ms: int = Field(
        28_000, ge=1, le=29_000, description="longest that a request may take; X-Request-Timeout-Ms asks for less"
    )
    max_in_flight: int = Field(64, ge=1, description="requests a worker holds at once; more are answered 429")
    threads: int = Field(
        default_factory=lambda: (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ),
        ge=1,
        le=MOST_THREADS,
        description="images decoded and inferred side by side",
    )
    intra_op_threads: int = Field(1, ge=1, le=MOST_THREADS, description="threads of one inference")


def read_settings(environment: Mapping[str, str]) -> Settings:
    """An empty variable is as good as none: its default holds."""
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value.strip()}
    found = {name[len(PREFIX) :].lower(): value for name, value in ours.items()}
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(f"{PREFIX}{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        known = ", ".join(PREFIX + name.upper() for name in Settings.model_fields)
        raise ConfigError(f"{problems}. Known settings: {known}") from None


def exact_tags(settings: Settings) -> tuple[str, ...]:
    """The model versions to serve, never `latest`.

    `SERVING_MODELS` decides; without it the models of the bento (or of bentofile.yaml), where BentoML has the exact
    versions; without those the newest of each default variant as of now.

    Raises:
        ConfigError: a model is not in the store.
    """
    names = settings.models.replace(",", " ").split()
    tags = tuple(exact_tag(name) for name in names or BentoMLContainer.model_aliases.get() or DEFAULT_VARIANTS)
    variants = [tag.partition(":")[0] for tag in tags]
    if len(set(variants)) < len(variants):
        raise ConfigError(f"{', '.join(tags)}: two versions of one variant; run a second service for the other version")
    return tags


def exact_tag(name: str) -> str:
    try:
        return str(bentoml.models.get(name).tag)
    except BentoMLException:
        variant = name.partition(":")[0]
        raise ConfigError(
            f"model {name} is not in the model store {BentoMLContainer.model_store_dir.get()}; "
            f"export it: python -m export {variant} (`bentoml models list` shows what is there)"
        ) from None
