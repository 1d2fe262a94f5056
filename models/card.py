"""The model card beside a checkpoint, drawn from what the checkpoint itself records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.atomic_file import write_atomically
from models.weights import Checkpoint, read_checkpoint


def write_card(checkpoint_path: Path) -> Path:
    """Write `NAME.md` beside `NAME.safetensors` and return its path."""
    path = checkpoint_path.with_suffix(".md")
    write_atomically(path, card(read_checkpoint(checkpoint_path), checkpoint_path).encode())
    return path


def card(checkpoint: Checkpoint, path: Path) -> str:
    description = checkpoint.description
    spec, training = description.spec, description.training
    pixels = spec.preprocessing
    recipe, test = training["recipe"], training["test"]
    parameters = sum(
        tensor.numel() for name, tensor in checkpoint.tensors.items() if name.rpartition(".")[2] in {"weight", "bias"}
    )
    rows = {
        "Top-1": f"**{test['top1']:.2%}** ({test['correct']} of {test['n']} test images, float32, last epoch)",
        "Data": f"{training['data']}, {training['train_images']} training images, {spec.num_classes} classes",
        **started_from(training),
        "Network": f"{spec.ordering}, {spec.block} blocks, {spec.shortcut} shortcuts",
        "Parameters": f"{parameters / 1e6:.2f} M",
        "Input": f"{pixels.crop} x {pixels.crop} RGB, mean {pixels.mean}, std {pixels.std}",
        "Epochs": recipe["epochs"],
        "Seed": recipe["seed"],
        "Optimiser": f"SGD, Nesterov momentum {recipe['momentum']}, weight decay {recipe['weight_decay']}",
        "Schedule": f"batch {recipe['batch_size']}, learning rate to {recipe['peak_lr']} over "
        f"{recipe['warmup_epochs']} epochs, then cosine to 0",
        "Augmentation": f"mirror, shift by up to {recipe['crop_padding']} pixels",
        "Precision": f"{recipe['precision']} (weights and updates float32)",
        "Trained": f"{training['finished']} on {training['device']}, torch {training['torch']}",
        "sha256": f"`{checkpoint.sha256}`",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {spec.variant}

| | |
|---|---|
{table}

One seed: a difference of a few tenths of a point to another network of this size may be chance. The accuracy of the
last epoch is reported as it came; nothing was chosen on the test set. Learning curves: `{path.stem}.log.jsonl`.
"""


def started_from(training: dict[str, Any]) -> dict[str, str]:
    """Rows that only some runs have."""
    rows = {}
    if "initial" in training:
        initial = training["initial"]
        head = "its head kept" if initial["kept_head"] else "a new head"
        rows["Started from"] = f"{initial['variant']}, sha256 `{initial['sha256']}`, {head}"
    if "unreadable_files" in training:
        rows["Left out"] = f"{training['unreadable_files']} files that could not be decoded"
    return rows
