"""Which weights a user means: shipped ones, a checkpoint of ours, or one of others with what it does not say itself."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from models.foreign import read_foreign
from models.spec import Interpolation, ModelSpec, Shortcut, SpecError, named_variants, spec_for
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


def choice_of(text: str, variant: str | None = None) -> ModelChoice:
    """A choice in one word: a variant's name, a model file, or a checkpoint (of ours, or of others for `variant`).

    Raises:
        SpecError: the word is none of these.
    """
    path = Path(text)
    if path.suffix == ".toml":
        return ModelChoice(variant=variant).over(read_model_file(path))
    if text in named_variants():
        return ModelChoice(variant=variant or text, checkpoint=zoo_path(text) if zoo_path(text).exists() else None)
    if not path.is_file():
        raise SpecError(f"{text}: neither a file nor a variant; `python -m models list` shows the variants")
    if describes_itself(path):
        return ModelChoice(variant=variant or read_checkpoint(path).description.spec.variant, checkpoint=path)
    if variant is None:
        raise SpecError(
            f"{text} does not say which network it fits; write a model file, such as\n"
            f'  variant = "resnet50-postact"\n  checkpoint = "{path.name}"\ninto NAME.toml beside it and give that'
        )
    return ModelChoice(variant=variant, checkpoint=path)


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


def open_checkpoint(choice: ModelChoice) -> Checkpoint:
    """The weights of a choice, described; `Checkpoint.network` matches them strictly.

    Raises:
        SpecError: the choice describes no network.
        CheckpointError: the checkpoint is absent, unreadable, or says that it is of another network.
    """
    variant = variant_of(choice)
    path = choice.checkpoint or zoo_path(variant)
    if choice.checkpoint is None and not path.exists():
        spec_for(variant)
        raise CheckpointError(
            f"no weights are shipped for {variant}; give --checkpoint FILE, or --untrained for its shape alone"
        )
    return read_ours(path, choice) if describes_itself(path) else read_others(path, choice)


def variant_of(choice: ModelChoice) -> str:
    if choice.variant is None:
        raise SpecError("no variant is named; give one, such as resnet20-preact: `python -m models list` shows all")
    return choice.variant


def read_ours(path: Path, choice: ModelChoice) -> Checkpoint:
    if choice.descriptive:
        raise SpecError(f"{path} describes itself; leave out {', '.join(choice.descriptive)}")
    checkpoint = read_checkpoint(path)
    variant = checkpoint.description.spec.variant
    if variant != choice.variant:
        raise CheckpointError(f"{path} holds a {variant}, not a {choice.variant}; name it so")
    return checkpoint


def read_others(path: Path, choice: ModelChoice) -> Checkpoint:
    tensors = read_foreign(path)
    head = tensors.get("fc.weight")
    spec = described(choice, None if head is None else head.shape[0])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    # without a head that we know the weights will not fit, and the number of labels is not why
    labels = numbered(spec.num_classes) if head is None else labels_of(choice, spec.num_classes)
    return Checkpoint(Description(spec, labels, {}), tensors, sha256)


def described(choice: ModelChoice, classes_in_head: int | None) -> ModelSpec:
    """The variant's spec with what was chosen otherwise."""
    spec = spec_for(variant_of(choice), num_classes=choice.num_classes or classes_in_head, shortcut=choice.shortcut)
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
