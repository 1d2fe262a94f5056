"""Loss and top-1 accuracy of a network over a data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.data import ArrayImages, FolderImages, batches_in_order, normalised
from models.resnet import ResNet
from models.spec import Preprocessing


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
def evaluate(
    network: ResNet, dataset: ArrayImages | FolderImages, preprocessing: Preprocessing, device: torch.device
) -> Accuracy:
    """In float32 whatever the training precision, so that the figure is the one that a served graph shows."""
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for images, labels in batches_in_order(dataset, batch_size=500):
        labels = labels.to(device)
        logits: Tensor = network(normalised(images.to(device), preprocessing))
        correct += (logits.argmax(1) == labels).sum()
        loss += cross_entropy(logits, labels, reduction="sum")
    return Accuracy(int(correct), len(dataset), float(loss) / len(dataset))
