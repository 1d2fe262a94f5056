"""The network of an export, with what is known of its origin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.artifact import Accuracy
from export.to_onnx import ServedGraph
from models.choice import ModelChoice, described, labels_of, numbered, open_checkpoint
from models.data import Split
from models.resnet import build
from models.spec import ModelSpec
from models.weights import zoo_path


@dataclass(frozen=True)
class Source:
    """A network with what is known of its origin."""

    graph: ServedGraph
    spec: ModelSpec
    labels: tuple[str, ...]
    checkpoint: Path | None
    checkpoint_sha256: str | None
    training_accuracy: Accuracy | None


def open_source(choice: ModelChoice, *, untrained: bool) -> Source:
    """The network of a choice, its weights matched strictly.

    Raises:
        SpecError: the choice describes no network.
        CheckpointError: the checkpoint is absent, unreadable, or of another network.
    """
    if untrained:
        spec = described(choice, None)
        graph = ServedGraph(build(spec, seed=0), spec.preprocessing)
        return Source(graph, spec, labels_of(choice, spec.num_classes), None, None, None)
    checkpoint = open_checkpoint(choice)
    description = checkpoint.description
    return Source(
        ServedGraph(checkpoint.network(), description.spec.preprocessing),
        description.spec,
        description.class_names,
        choice.checkpoint or zoo_path(description.spec.variant),
        checkpoint.sha256,
        recorded(description.training),
    )


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
