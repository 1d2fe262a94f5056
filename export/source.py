"""Where the network of an export comes from: shipped weights, a checkpoint of ours or of others, or none."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from export.artifact import Accuracy, file_sha256
from export.to_onnx import ServedGraph
from models.data import Split
from models.foreign import read_foreign
from models.resnet import build
from models.spec import Interpolation, ModelSpec, Shortcut, SpecError, spec_for
from models.weights import Checkpoint, CheckpointError, Description, describes_itself, read_checkpoint, zoo_path


class ModelChoice(BaseModel):
    """What a user says of a model, on the command line or in a TOML file of the same names.

    All but `variant` and `checkpoint` describe checkpoints of others; ours carry their description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str | None = None
    checkpoint: Path | None = None
    labels: tuple[str, ...] | Path | None = None
    num_classes: int | None = None
    shortcut: Shortcut | None = None
    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation | None = None

    def over(self, other: ModelChoice) -> ModelChoice:
        """This choice, completed by another."""
        return other.model_copy(update=self.model_dump(exclude_none=True))

    @property
    def descriptive(self) -> list[str]:
        """The names that were given and that a checkpoint of ours answers itself."""
        return sorted(self.model_dump(exclude_none=True).keys() - {"variant", "checkpoint"})


@dataclass(frozen=True)
class Source:
    """A network with what is known of its origin."""

    graph: ServedGraph
    spec: ModelSpec
    labels: tuple[str, ...]
    checkpoint_sha256: str | None
    training_accuracy: Accuracy | None


def read_model_file(path: Path) -> ModelChoice:
    """A `ModelChoice` as TOML; its paths are relative to the file."""
    try:
        choice = ModelChoice.model_validate(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: not a readable TOML file ({error})") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise SpecError(f"{path}: {problems}; known: {', '.join(ModelChoice.model_fields)}") from None
    paths = {name: path.parent / value for name, value in choice if isinstance(value, Path)}
    return choice.model_copy(update=paths)


def open_source(choice: ModelChoice, *, untrained: bool) -> Source:
    """The network of a choice, its weights matched strictly.

    Raises:
        SpecError: the choice describes no network.
        CheckpointError: the checkpoint is absent, unreadable, or of another network.
    """
    if choice.variant is None:
        raise SpecError("no variant is named; give one, such as resnet20-preact: `python -m models list` shows all")
    if untrained:
        spec = described(choice, None)
        return Source(
            ServedGraph(build(spec, seed=0), spec.preprocessing), spec, labels_of(choice, spec.num_classes), None, None
        )
    path = choice.checkpoint or zoo_path(choice.variant)
    if choice.checkpoint is None and not path.exists():
        spec_for(choice.variant)
        raise CheckpointError(
            f"no weights are shipped for {choice.variant}; give --checkpoint FILE, or --untrained for its shape alone"
        )
    checkpoint = read_ours(path, choice) if describes_itself(path) else read_others(path, choice)
    description = checkpoint.description
    return Source(
        ServedGraph(checkpoint.network(), description.spec.preprocessing),
        description.spec,
        description.class_names,
        checkpoint.sha256,
        recorded(description.training),
    )


def read_ours(path: Path, choice: ModelChoice) -> Checkpoint:
    if choice.descriptive:
        raise SpecError(f"{path} describes itself; leave out {', '.join(choice.descriptive)}")
    checkpoint = read_checkpoint(path)
    variant = checkpoint.description.spec.variant
    if variant != choice.variant:
        raise CheckpointError(f"{path} holds a {variant}, not a {choice.variant}; export it under that name")
    return checkpoint


def read_others(path: Path, choice: ModelChoice) -> Checkpoint:
    tensors = read_foreign(path)
    head = tensors.get("fc.weight")
    spec = described(choice, None if head is None else head.shape[0])
    return Checkpoint(Description(spec, labels_of(choice, spec.num_classes), {}), tensors, file_sha256(path))


def described(choice: ModelChoice, classes_in_head: int | None) -> ModelSpec:
    """The variant's spec with what was chosen otherwise."""
    assert choice.variant is not None
    spec = spec_for(choice.variant, num_classes=choice.num_classes or classes_in_head, shortcut=choice.shortcut)
    chosen = choice.model_dump(include={"resize", "crop", "mean", "std", "interpolation"}, exclude_none=True)
    return replace(spec, preprocessing=replace(spec.preprocessing, **chosen))


def labels_of(choice: ModelChoice, classes: int) -> tuple[str, ...]:
    """The labels that were given, in the order of the logits; else a number for each class."""
    if choice.labels is None:
        return numbered(classes)
    labels = choice.labels
    if isinstance(labels, Path):
        try:
            labels = tuple(line for line in labels.read_text().splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{labels}: expected a text file with a label a line ({error})") from error
    if len(labels) != classes:
        raise SpecError(f"{len(labels)} labels were given for {classes} classes")
    return labels


def numbered(classes: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(classes))


def named_by(source: Source, split: Split) -> Source:
    """Numbers give way to the class names of labelled data; its accuracy tells whether the order is right."""
    if source.labels == numbered(len(split.class_names)):
        return replace(source, labels=split.class_names)
    return source


def recorded(training: dict[str, Any]) -> Accuracy | None:
    """The accuracy that training wrote into a checkpoint, if it did."""
    if not training:
        return None
    return Accuracy(**training["test"], data=f"{training['data']} test")
