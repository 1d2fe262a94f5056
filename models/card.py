"""The model card beside a checkpoint, drawn from what the checkpoint itself records."""

from __future__ import annotations

from pathlib import Path

from models.atomic_file import write_atomically
from models.weights import Checkpoint, read_checkpoint


def write_card(checkpoint_path: Path) -> Path:
    """Write `NAME.md` beside `NAME.safetensors` and return its path."""
    path = checkpoint_path.with_suffix(".md")
    write_atomically(path, card(read_checkpoint(checkpoint_path), checkpoint_path).encode())
    return path


def card(checkpoint: Checkpoint, path: Path) -> str:
    spec, training = checkpoint.spec, checkpoint.training
    recipe, test = training["recipe"], training["test"]
    parameters = sum(tensor.numel() for name, tensor in checkpoint.tensors.items() if "running" not in name)
    return f"""# {spec.variant}

| | |
|---|---|
| Top-1 | **{test["top1"]:.2%}** ({test["correct"]} of {test["n"]} test images, float32, last epoch) |
| Data | {training["data"]}, {training["train_images"]} training images, {len(checkpoint.class_names)} classes |
| Network | {spec.ordering}, {spec.block} blocks, {spec.shortcut} shortcuts, {parameters / 1e6:.2f} M parameters |
| Input | {spec.preprocessing.crop} x {spec.preprocessing.crop} RGB, mean {spec.preprocessing.mean}, std {spec.preprocessing.std} |
| Epochs, seed | {recipe["epochs"]}, {recipe["seed"]} |
| Recipe | SGD, Nesterov momentum {recipe["momentum"]}, weight decay {recipe["weight_decay"]}, batch {recipe["batch_size"]}, learning rate to {recipe["peak_lr"]} in {recipe["warmup_epochs"]} epochs, then cosine to 0; mirror, shift by {recipe["crop_padding"]} |
| Precision | {recipe["precision"]} (weights and updates float32) |
| Trained | {training["finished"]} on {training["device"]}, torch {training["torch"]} |
| sha256 | `{checkpoint.sha256}` |

One seed: a difference of a few tenths of a point to another network of this size may be chance. The accuracy of the
last epoch is reported as it came; nothing was chosen on the test set. Learning curves: `{path.stem}.log.jsonl`.

Terms: the weights are under this project's licence. CIFAR-10 (Krizhevsky 2009) comes without a stated licence.
"""
