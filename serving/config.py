"""The one place that reads the environment, and the choice of exact model versions."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer  # aliases have no public reader in 1.4
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from export.cuda import DeviceError, UnavailableError, cuda_or_reason
from export.engine_cache import default_folder
from serving.cores import default_threads, default_workers

PREFIX = "SERVING_"
MOST_THREADS = 256  # a slip of the keyboard here would take all memory
NOT_ASKED = "default_factory_not_called"  # pydantic's type for a default that follows from what is wrong itself
BODIES = ("max_image_bytes", "max_tensor_bytes", "max_batch_bytes")  # the settings that limit one
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


class Batching(StrEnum):
    """Whether requests that wait go to the runner together."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class LogFormat(StrEnum):
    """Lines for people, or JSON for machines."""

    TEXT = "text"
    JSON = "json"


class AccessLog(StrEnum):
    """Whether every request gets a line."""

    ON = "on"
    OFF = "off"


class ConfigError(ValueError):
    """A setting, or a model that it names, cannot be used."""


def gpu_bytes(runtime: ServingRuntime) -> int | None:
    """Memory of the GPU that is wanted, 0 where there is none; None where a CPU will do."""
    if runtime is ServingRuntime.ONNXRUNTIME:
        return None
    cuda = cuda_or_reason()
    if isinstance(cuda, UnavailableError):
        return None if runtime is ServingRuntime.AUTO else 0
    return cuda.bytes


def weights(text: object) -> object:
    """`a=90 b=10` -> {"a": 90, "b": 10}."""
    if not isinstance(text, str):
        return text
    pairs = [pair.partition("=") for pair in text.replace(",", " ").split()]
    names = [name for name, _, _ in pairs]
    if not all(name and separator and weight for name, separator, weight in pairs) or len(set(names)) < len(names):
        raise ValueError(f"found {text!r}, expected `VARIANT=NUMBER VARIANT=NUMBER`, each variant once")
    return {name: weight for name, _, weight in pairs}


Weights = Annotated[dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]], BeforeValidator(weights)]


class Settings(BaseModel):
    """Read from `SERVING_<NAME>`; an unknown name is an error, not ignored. docs/serving.md lists them from here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: str = Field(
        "",
        description="tags or variant names, separated by commas or spaces; the first is the default variant. "
        "By default those of the bento, or the newest of the shipped pair",
    )
    runtime: ServingRuntime = Field(ServingRuntime.AUTO, description=f"one of {', '.join(ServingRuntime)}")
    engines: Engines = Field(
        Engines.AS_EXPORTED, description="rebuild: before it is ready, build engines that are absent or of another GPU"
    )
    engine_cache: Path = Field(
        default_factory=default_folder, description="where rebuilt engines are found again; by default in ~/.cache"
    )
    max_image_bytes: int = Field(16 << 20, ge=1, description="largest encoded image")
    max_tensor_bytes: int = Field(16 << 20, ge=1, description="largest body of a /v2 inference request")
    max_image_pixels: int = Field(25_000_000, ge=1, description="width times height that will be decoded")
    api_keys_file: Path | None = Field(None, description="whose keys are let in; without it everybody is")
    max_timeout_ms: int = Field(
        30_000, ge=1, le=600_000, description="longest that a request may take; X-Request-Timeout-Ms asks for less"
    )
    max_in_flight: int = Field(
        default_factory=lambda earlier: 64 if gpu_bytes(earlier["runtime"]) is None else 256,
        ge=1,
        description="requests a worker holds at once; more are answered 429. By default 64, or 256 on a GPU",
    )
    max_images: int = Field(64, ge=1, le=1024, description="images of one /classify/batch request")
    max_batch_bytes: int = Field(64 << 20, ge=1, description="their bytes together")
    max_held_bytes: int = Field(
        default_factory=lambda earlier: max(
            earlier["max_in_flight"] * (4 << 20), *(2 * earlier[name] for name in BODIES)
        ),
        validate_default=True,
        ge=1,
        description="bytes of bodies that a worker holds at once, those on their way included; more are answered 429. "
        "By default 4 MiB for each of SERVING_MAX_IN_FLIGHT, or twice the largest body",
    )
    max_header_bytes: int = Field(16 << 10, ge=256, le=1 << 20, description="names and values of a request's headers")
    max_receive_ms: int = Field(
        10_000,
        ge=1,
        description="longest that a request's headers, then its body, may take to arrive, and an answer stay unread",
    )
    drain_ms: int = Field(
        1_000, ge=0, le=600_000, description="from SIGTERM, when it is not ready any more, to when it stops listening"
    )
    access_log: AccessLog = Field(AccessLog.OFF, description="on: a line for every request")
    log_format: LogFormat = Field(LogFormat.TEXT, description="json: one object a line")
    workers: int = Field(
        default_factory=lambda earlier: default_workers(gpu_bytes(earlier["runtime"])),
        ge=1,
        le=MOST_THREADS,
        description="processes; by default one for every two cores, on a GPU for every four and every 11 GiB of its "
        "memory",
    )
    threads: int = Field(
        default_factory=lambda earlier: default_threads(earlier["workers"]),
        ge=1,
        le=MOST_THREADS,
        description="images that a worker decodes and infers side by side; by default its share of the cores",
    )
    intra_op_threads: int | None = Field(
        None,
        ge=1,
        le=MOST_THREADS,
        description="threads of one inference on a CPU; by default one, and for a request that comes alone as many as "
        "the worker has cores and threads, while that is quicker",
    )
    batching: Batching = Field(
        Batching.AUTO, description="auto: on a GPU what waits, on a CPU up to four short inferences"
    )
    split: Weights = Field({}, description="VARIANT=WEIGHT ...: who answers requests that name no variant")
    shadow: Weights = Field({}, description="VARIANT=PERCENT ...: who gets copies of those, unanswered")

    @field_validator("max_held_bytes")
    @classmethod
    def holds_any_body(cls, value: int, info: ValidationInfo) -> int:
        """As far as those are valid themselves."""
        sizes = {name: info.data[name] for name in BODIES if name in info.data}
        largest = max(sizes, key=sizes.__getitem__, default="")
        if largest and value < 2 * sizes[largest]:
            raise ValueError(f"less than twice {PREFIX}{largest.upper()}, {sizes[largest]}")
        return value

    @property
    def spread_over(self) -> int:
        """Threads for an inference that is alone, no more than the worker has cores for; 1 where it is like others."""
        return 1 if self.intra_op_threads is not None else min(self.threads, default_threads(self.workers))


def reference() -> str:
    """The settings as a Markdown table."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        unset = field.default_factory is not None or field.default in ("", None, {})
        default = "" if unset else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """An empty variable is as good as none: its default holds."""
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value.strip()}
    found = {name[len(PREFIX) :].lower(): value for name, value in ours.items()}
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        wrong = [item for item in error.errors() if item["type"] != NOT_ASKED]
        problems = "; ".join(problem(str(item["loc"][0]), item["msg"], item["input"]) for item in wrong)
        raise ConfigError(f"{problems}. All settings: python -m serving settings") from None


def problem(name: str, message: str, found: object) -> str:
    variable = PREFIX + name.upper()
    if name in Settings.model_fields:
        return f"{variable}: {message}; found {found!r}, expected {Settings.model_fields[name].description}"
    near = get_close_matches(name, Settings.model_fields, n=1)
    return f"{variable}: no such setting{f'; the nearest is {PREFIX}{near[0].upper()}' if near else ''}"


def workers_or_default(environment: Mapping[str, str]) -> int:
    """BentoML wants to know when it imports the service, where a mistake would be a traceback; `pin` reports it."""
    try:
        return read_settings(environment).workers
    except (ConfigError, DeviceError):
        return 1


def exact_tags(settings: Settings) -> tuple[str, ...]:
    """The model versions to serve, never `latest`.

    `SERVING_MODELS` decides; without it the models of the bento (or of bentofile.yaml), where BentoML has the exact
    versions; without those the newest of each default variant as of now.

    Raises:
        ConfigError: a model is not in the store, is named twice, or is named as none can be.
    """
    names = settings.models.replace(",", " ").split()
    tags = tuple(exact_tag(name) for name in names or BentoMLContainer.model_aliases.get() or DEFAULT_VARIANTS)
    if twice := sorted({tag for tag in tags if tags.count(tag) > 1}):
        raise ConfigError(f"{', '.join(twice)}: the same model is named twice; name it once")
    variants = [tag.partition(":")[0] for tag in tags]
    if len(set(variants)) < len(variants):
        raise ConfigError(f"{', '.join(tags)}: two versions of one variant; run a second service for the other version")
    return tags


def exact_tag(name: str) -> str:
    try:
        bentoml.Tag.from_str(name)
    except (ValueError, BentoMLException):
        raise ConfigError(
            f"{PREFIX}MODELS: {name!r} is no model; expected a variant such as {DEFAULT_VARIANTS[0]}, or "
            "VARIANT:VERSION (`bentoml models list` shows what is there)"
        ) from None
    try:
        return str(bentoml.models.get(name).tag)  # by its text, which may be an alias of the bento
    except BentoMLException:
        variant = name.partition(":")[0]
        raise ConfigError(
            f"model {name} is not in the model store {BentoMLContainer.model_store_dir.get()}; "
            f"export it: python -m export {variant}, with --checkpoint FILE where no weights are shipped for it "
            "(`bentoml models list` shows what is there)"
        ) from None
