"""What is to be exported, and how."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from export.artifact import Precision, Runtime
from export.cuda import Cuda, UnavailableError, cuda_or_reason
from export.flavour import load
from export.images import Pixels, bundled_photographs, from_photographs, from_split, random_pixels
from export.source import Source, named_by, open_source
from export.to_engine import Target, target
from models.choice import ModelChoice, numbered
from models.data import Part, Split, load_split
from models.spec import Preprocessing, SpecError
from models.weights import describes_itself

AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """How every variant of one command is exported.

    `most_points_lost` is the gate of lower precisions, in percentage points; None is each precision's own.
    """

    untrained: bool
    data: Path | None
    images: Path | None
    max_batch_size: int
    fold: bool
    runtime: Runtime
    compute_capability: str | None
    engine_cache: Path
    precision: Precision | Literal["auto"]
    calibration: Path | None
    save_calibration: Path | None
    most_points_lost: float | None


@dataclass(frozen=True)
class Job:
    """One network to export, and what is the same for each precision of it."""

    source: Source
    split: Split | None
    settings: ExportSettings
    images: Pixels
    images_are: str
    cuda: Cuda | UnavailableError
    built_for: Target  # where there are engines
    given: tuple[str, ...]  # the manifest's

    @property
    def variant(self) -> str:
        return self.source.spec.variant

    @property
    def labelled(self) -> Split | None:
        """Labelled data, where accuracy means something."""
        return self.split if self.source.checkpoint is not None else None

    @property
    def ungated(self) -> bool:
        """Whether accuracy would mean something, and nothing is there to measure it on."""
        return self.split is None and self.source.checkpoint is not None


def open_job(choice: ModelChoice, settings: ExportSettings) -> Job:
    if settings.untrained and choice.checkpoint is not None:
        raise SpecError(f"--untrained and the checkpoint {choice.checkpoint} exclude each other")
    cuda, built_for = cuda_or_reason(), Target()
    if settings.runtime is not Runtime.ONNXRUNTIME:  # nothing is begun that cannot be finished
        load(settings.runtime)
        built_for = target(settings.runtime, settings.compute_capability, cuda)
    elif settings.compute_capability is not None:
        raise SpecError("--compute-capability is of engines; name their --runtime")
    source = open_source(choice, untrained=settings.untrained)
    preprocessing = source.spec.preprocessing
    split = load_split(settings.data, Part.TEST, preprocessing) if settings.data is not None else None
    if split is not None and source.checkpoint is not None:
        source = named_by(source, split)
    if taken := assumed(choice, source):
        say(f"{source.spec.variant}: taken for granted, since neither weights nor options say it: {taken}")
    images, images_are = parity_images(split, settings.images, preprocessing)
    job = Job(source, split, settings, images, images_are, cuda, built_for, given(choice, settings))
    if settings.precision == AUTO:
        refuse_unjudged(job)
    return job


def refuse_unjudged(job: Job) -> None:
    """Before anything is made for `--precision auto`.

    Raises:
        SpecError: there is no labelled data to judge by.
        UnavailableError: engines, and no GPU to time them on.
    """
    if job.labelled is None:
        raise SpecError("--precision auto weighs speed against accuracy, which takes trained weights and --data FOLDER")
    if job.settings.runtime is not Runtime.ONNXRUNTIME and isinstance(job.cuda, UnavailableError):
        raise UnavailableError(f"--precision auto times the engines, and there is {job.cuda}; name a precision")


def assumed(choice: ModelChoice, source: Source) -> str:
    """Of what describes weights of another maker, as options, that which nobody said."""
    if source.checkpoint is None or describes_itself(source.checkpoint):
        return ""
    words = []
    for name, value in asdict(source.spec.preprocessing).items():
        if getattr(choice, name) is None:
            words.append(f"--{name} {' '.join(map(str, value if isinstance(value, tuple) else (value,)))}")
    labels = "numbers as --labels" if source.labels == numbered(len(source.labels)) else ""
    return ", and ".join(filter(None, (" ".join(words), labels)))


def given(choice: ModelChoice, settings: ExportSettings) -> tuple[str, ...]:
    """The options that a manifest does not tell otherwise; files and folders are left at home."""
    files = dict.fromkeys(("checkpoint", "labels"), "FILE")
    folders = dict.fromkeys(("data", "images", "calibration"), "FOLDER")
    found = choice.model_dump(exclude={"variant"}, exclude_none=True)
    found |= {name: getattr(settings, name) for name in (*folders, "most_points_lost")}
    words: list[str] = []
    for name, value in found.items():
        if value is not None:
            said = (files | folders).get(name, value)
            words += [f"--{name.replace('_', '-')}", *map(str, said if isinstance(said, tuple) else (said,))]
    return tuple(words)


def parity_images(split: Split | None, photographs: Path | None, preprocessing: Preprocessing) -> tuple[Pixels, str]:
    """The images to compare logits on, and a description of them."""
    if split is not None:
        return from_split(split), f"{split.name} test"
    photographs = photographs or bundled_photographs()
    if photographs is not None:
        return from_photographs(photographs, preprocessing)
    say("warning: parity is measured on random pixels")
    return random_pixels(preprocessing), "random pixels: no --data, no --images, no scikit-image"


def say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
