"""The artifact: model files and, written last, a manifest that makes them provable. Torch-free."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from models.atomic_file import write_atomically
from models.spec import ModelSpec, Preprocessing

MANIFEST, GRAPH_FILE, ENGINE_FILE = "manifest.json", "model.onnx", "model.engine"
CLASS_MAPS_FILE = "explain.onnx"
MAX_BATCH_SIZE = 64  # where an export names none
DIGEST_LENGTH = 16  # hexadecimal digits of the manifest's sha256 in a version
Dimension = int | Literal["batch"]
Sha256 = str


class Precision(StrEnum):
    """The arithmetic of a graph; logits are float32 in each."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Runtime(StrEnum):
    """What an artifact is made for, by the name of its Python module; each wants int8 graphs of its own shape."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


class ArtifactError(ValueError):
    """An artifact is absent, incomplete, changed, or contradicts itself."""


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Strict):
    """A tensor of the graph by name; `batch` marks the dynamic axis."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[Dimension, ...]


class Parity(Strict):
    """The exported graph against the network it came from, on the same images."""

    max_abs_logit_difference: float
    top1_agreement: float
    n: int
    images: str


class Accuracy(Strict):
    """Top-1 on a labelled test set."""

    top1: float
    correct: int
    n: int
    data: str


class Folding(Strict):
    """What became of the BatchNormalizations that no convolution could take, by name: into what, or why it was left."""

    folded: dict[str, str]
    left: dict[str, str]


class Quantization(Strict):
    """The images that the ranges of an int8 graph are of."""

    images: str
    n: int


class OptimizationProfile(Strict):
    """The batch sizes that an engine takes, and the one that its kernels are chosen for."""

    minimum: int = Field(ge=1)
    optimum: int
    maximum: int

    @model_validator(mode="after")
    def rises(self) -> OptimizationProfile:
        if not self.minimum <= self.optimum <= self.maximum:
            raise ValueError(
                f"expected minimum <= optimum <= maximum, found {self.minimum, self.optimum, self.maximum}"
            )
        return self


class Engine(Strict):
    """A TensorRT engine, and where it runs: on one version of its flavour, and one GPU architecture.

    `compute_capability` is that of the GPU, such as `9.0`; null for TensorRT-RTX's portable engines, Ampere and later.
    `gpu` is the model whose kernels TensorRT timed; null for TensorRT-RTX, which times none when it builds.
    `parity` and `accuracy` are the engine's own, null where it was built without such a GPU, or without labelled data.
    """

    flavour: Runtime
    version: str
    compute_capability: str | None
    gpu: str | None = None
    onnx_sha256: Sha256
    profile: OptimizationProfile
    optimization_level: int | None
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    not_measured: str | None = None

    @model_validator(mode="after")
    def says_why_nothing_was_measured(self) -> Engine:
        if (self.parity is None) != (self.not_measured is not None):
            raise ValueError(f"parity is {self.parity}, the reason for its absence {self.not_measured}")
        return self


class Manifest(Strict):
    """Everything that is true of the model files beside it.

    `parity` and `accuracy` are the exported graph's own, run by ONNX Runtime; `training_accuracy` is what the
    checkpoint says of itself, `fp32_accuracy` what the graph scored before its precision was lowered. `not_measured`
    gives the reason for every measurement that is null, and for those alone. `folding` is null where it was switched
    off, `quantization` but for int8, `engine` but for TensorRT. `given` are the export's options that nothing else here
    tells, with FILE and FOLDER for what only its maker has. `class_maps` is the output of a second graph, in
    `CLASS_MAPS_FILE`: the first, in its precision, with maps [classes, h, w] for logits, their means over h and w; null
    in artifacts from before there were any.
    """

    schema_version: Literal[1] = 1
    variant: str
    trained: bool
    given: tuple[str, ...] = ()
    spec: ModelSpec
    labels: tuple[str, ...]
    input: TensorSpec
    output: TensorSpec
    class_maps: TensorSpec | None = None
    precision: Precision
    runtime: Runtime
    opset: int
    max_batch_size: int = Field(ge=1)
    files: dict[str, Sha256]
    checkpoint_sha256: Sha256 | None
    preprocessing_sha256: Sha256
    folding: Folding | None = None
    quantization: Quantization | None = None
    engine: Engine | None = None
    fp32_accuracy: Accuracy | None = None
    parity: Parity | None
    accuracy: Accuracy | None
    training_accuracy: Accuracy | None
    commit: str | None
    not_measured: dict[str, str]
    packages: dict[str, str]

    @model_validator(mode="after")
    def agrees_with_itself(self) -> Manifest:
        if len(self.labels) != self.spec.num_classes or self.output.shape[-1] != self.spec.num_classes:
            raise ValueError(
                f"{len(self.labels)} labels and {self.output.shape[-1]} logits for {self.spec.num_classes} classes"
            )
        if self.preprocessing_sha256 != preprocessing_sha256(self.spec.preprocessing):
            raise ValueError("the preprocessing is not the one that was hashed")
        if (self.precision is Precision.INT8) != (self.quantization is not None):
            raise ValueError(f"the precision is {self.precision}, quantization is {self.quantization}")
        flavour = self.engine.flavour if self.engine is not None else Runtime.ONNXRUNTIME
        beside = {ENGINE_FILE: self.engine, CLASS_MAPS_FILE: self.class_maps}
        expected = {GRAPH_FILE, *(name for name, described in beside.items() if described is not None)}
        if self.runtime is not flavour or self.files.keys() != expected:
            raise ValueError(
                f"the runtime is {self.runtime}, the engine of {flavour}, the files are {list(self.files)}, "
                f"expected {sorted(expected)}"
            )
        if self.engine is not None and self.engine.onnx_sha256 != self.files[GRAPH_FILE]:
            raise ValueError(f"the engine is of a graph with sha256 {self.engine.onnx_sha256}, not of {GRAPH_FILE}")
        nullable = {"checkpoint_sha256", "parity", "accuracy", "training_accuracy", "commit"}
        null = {name for name in nullable if getattr(self, name) is None}
        if null != self.not_measured.keys():
            raise ValueError(f"null are {sorted(null)}, reasons are given for {sorted(self.not_measured)}")
        return self


def command_of(manifest: Manifest) -> str:
    """What makes such an artifact again."""
    capability = manifest.engine.compute_capability if manifest.engine is not None else None
    is_free = manifest.runtime is Runtime.TENSORRT_RTX  # TensorRT itself builds for the GPU at hand
    words = [
        *manifest.given,
        *([] if manifest.trained else ["--untrained"]),
        *([] if manifest.runtime is Runtime.ONNXRUNTIME else ["--runtime", manifest.runtime]),
        *(["--compute-capability", capability] if is_free and capability is not None else []),
        *([] if manifest.precision is Precision.FP32 else ["--precision", manifest.precision]),
        *([] if manifest.max_batch_size == MAX_BATCH_SIZE else ["--max-batch-size", str(manifest.max_batch_size)]),
        *([] if manifest.folding is not None else ["--no-fold"]),
    ]
    return " ".join(["python -m export", manifest.variant, *words])


def preprocessing_sha256(preprocessing: Preprocessing) -> Sha256:
    return hashlib.sha256(TypeAdapter(Preprocessing).dump_json(preprocessing)).hexdigest()


def file_sha256(path: Path) -> Sha256:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def version_of(manifest: Manifest) -> str:
    """The tag's version `<runtime>-<precision>-<digest>`; the digest covers the manifest and so every file's hash."""
    return f"{manifest.runtime}-{manifest.precision}-{digest(manifest_bytes(manifest))}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last file of an artifact to be written: without it the folder is not one."""
    write_atomically(folder / MANIFEST, manifest_bytes(manifest))


def read_manifest(folder: Path, version: str) -> Manifest:
    """Read and check an artifact against the version under which it was registered.

    Raises:
        ArtifactError: the manifest or a file is missing, changed or malformed.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}: {error.strerror}; without a manifest this is no artifact, export again"
        ) from error
    expected = version.rpartition("-")[2]
    if digest(content) != expected:
        raise ArtifactError(
            f"{path}: its digest is {digest(content)}, registered was {expected}: it has been changed; export again"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a manifest that this version reads ({error}); export again") from error
    for name, sha256 in manifest.files.items():
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise ArtifactError(f"{folder / name}: {error.strerror}; export again: {command_of(manifest)}") from error
        if found != sha256:
            raise ArtifactError(
                f"{folder / name}: sha256 is {found}, the manifest says {sha256}: it has been changed; "
                f"export again: {command_of(manifest)}"
            )
    return manifest
