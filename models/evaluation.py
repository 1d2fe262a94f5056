"""What `python -m models evaluate` finds out about a network, and about two on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from models.accuracy import predictions
from models.choice import numbered
from models.data import DataError, Split
from models.paired import Interval, share
from models.weights import Checkpoint

BINS = 15  # of confidence, as in Guo et al. 2017
TOP = 5


@dataclass(frozen=True)
class Answers:
    """A network's answers to N images: probabilities float64 [N, classes], labels int64 [N], mean loss in nats."""

    name: str
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    loss: float

    @property
    def answered(self) -> NDArray[np.int64]:
        return np.asarray(self.probabilities.argmax(1))

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.answered == self.labels)

    @property
    def top1(self) -> Interval:
        return share(int(self.correct.sum()), len(self.labels))

    @property
    def top5(self) -> Interval:
        """The label is among the five likeliest, or among all where there are fewer."""
        above = (self.probabilities > np.take_along_axis(self.probabilities, self.labels[:, None], 1)).sum(1)
        return share(int((above < TOP).sum()), len(self.labels))


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """The answers whose probability lies in a fifteenth of [0, 1]: how sure they were, and how often right."""

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: `n` images, how many of them are recognised, how many answers of it are right, what it is taken for.

    `precision` is None where nothing was answered so, `taken_for` where every image was recognised.
    """

    name: str
    n: int
    recall: Interval
    precision: float | None
    taken_for: str | None


def answers(checkpoint: Checkpoint, name: str, split: Split, device: torch.device) -> Answers:
    """Classify a split, whose classes have to be among the network's.

    Raises:
        DataError: they are not.
    """
    class_names = checkpoint.description.class_names
    if class_names == numbered(len(split.class_names)):
        class_names = split.class_names  # numbers say nothing; the accuracy tells whether the order is right
    indices = indices_of(split.class_names, class_names, name)
    network = checkpoint.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found, labels, loss = [], [], 0.0
    batches = predictions(network, split.images, checkpoint.description.spec.preprocessing, device)
    progress = tqdm(total=len(split.images), desc=name, unit="image", leave=False, delay=1)
    for logits, expected in batches:
        target = indices.to(device)[expected]
        loss += float(cross_entropy(logits, target, reduction="sum"))
        found.append(logits.double().softmax(1).cpu().numpy())
        labels.append(target.cpu().numpy())
        progress.update(len(labels[-1]))
    progress.close()
    return Answers(name, class_names, np.concatenate(found), np.concatenate(labels), loss / len(split.images))


def indices_of(data_classes: Sequence[str], network_classes: Sequence[str], name: str) -> torch.Tensor:
    """The network's index of each class of the data, by name."""
    unknown = [data_class for data_class in data_classes if data_class not in network_classes]
    if unknown:
        raise DataError(
            f"{len(unknown)} of the data's {len(data_classes)} classes are not among those of {name}: "
            f"{', '.join(unknown[:5])}; it knows {', '.join(network_classes[:5])}"
            + (f" and {len(network_classes) - 5} more" if len(network_classes) > 5 else "")
        )
    return torch.tensor([network_classes.index(data_class) for data_class in data_classes])


def confidence_bins(found: Answers) -> list[ConfidenceBin | None]:
    """`BINS` bins of equal width; None for an empty one."""
    confidence = found.probabilities.max(1)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins: list[ConfidenceBin | None] = []
    for index in range(BINS):
        inside = place == index
        n = int(inside.sum())
        mean = ConfidenceBin(n, float(confidence[inside].mean()), float(found.correct[inside].mean())) if n else None
        bins.append(mean)
    return bins


def calibration_error(found: Answers) -> float:
    """Expected calibration error: |accuracy - confidence| averaged over the answers (Guo et al. 2017, section 2)."""
    gaps = [each.n * abs(each.accuracy - each.confidence) for each in confidence_bins(found) if each is not None]
    return sum(gaps) / len(found.labels)


def class_rows(found: Answers) -> list[ClassRow]:
    """A row for each class that has images, in the network's order."""
    size = len(found.class_names)
    confusion = np.bincount(found.labels * size + found.answered, minlength=size * size).reshape(size, size)
    rows = []
    for index in np.flatnonzero(confusion.sum(1)):
        right, n, answered = int(confusion[index, index]), int(confusion[index].sum()), int(confusion[:, index].sum())
        wrong = confusion[index].copy()
        wrong[index] = 0
        rows.append(
            ClassRow(
                found.class_names[index],
                n,
                share(right, n),
                right / answered if answered else None,
                found.class_names[int(wrong.argmax())] if right < n else None,
            )
        )
    return rows
