"""What a network answers over a data set, and how much of it is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.data import ArrayImages, FolderImages, batches_in_order, normalised
from models.spec import Preprocessing

BATCH_SIZE = 250


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`correct` of `n` images; `loss` is the mean cross-entropy in nats."""

    correct: int
    n: int
    loss: float

    @property
    def top1(self) -> float:
        return self.correct / self.n


@torch.inference_mode()
def predictions(
    network: nn.Module, dataset: ArrayImages | FolderImages, preprocessing: Preprocessing, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of float32 logits [B, classes] and int64 labels [B], in the order of the data set.

    In float32 whatever the training precision, so that a figure is the one that a served graph shows.
    """
    network.eval()
    for images, labels in batches_in_order(dataset, BATCH_SIZE):
        yield network(normalised(images.to(device), preprocessing)), labels.to(device)


def evaluate(
    network: nn.Module, dataset: ArrayImages | FolderImages, preprocessing: Preprocessing, device: torch.device
) -> Accuracy:
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for logits, labels in predictions(network, dataset, preprocessing, device):
        correct += (logits.argmax(1) == labels).sum()
        loss += cross_entropy(logits, labels, reduction="sum")
    return Accuracy(int(correct), len(dataset), float(loss) / len(dataset))
