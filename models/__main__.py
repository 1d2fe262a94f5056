"""Command line of `models`: list the variants, train one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from models.card import write_card
from models.data import DataError, Part, load_split
from models.spec import Shortcut, SpecError, named_variants, spec_for
from models.train import Precision, Recipe, Run, fastest_precision, train
from models.weights import CheckpointError, zoo_path


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (DataError, SpecError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last whole epoch", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    recipe = Recipe()

    command = commands.add_parser("list", help="every named variant, and whether its weights are shipped")
    command.set_defaults(run=run_list)

    command = commands.add_parser(
        "train",
        help="train one variant; run again after a kill, it resumes from the last epoch",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run_train)
    command.add_argument("variant", help="such as resnet20-preact")
    command.add_argument("--data", type=Path, required=True, help="CIFAR-10 (npz or python batches) or image folders")
    command.add_argument("--out", type=Path, help="folder of the run (default: runs/VARIANT-seedN)")
    command.add_argument("--epochs", type=int, default=recipe.epochs)
    command.add_argument("--batch-size", type=int, default=recipe.batch_size)
    command.add_argument("--peak-lr", type=float, default=recipe.peak_lr)
    command.add_argument("--weight-decay", type=float, default=recipe.weight_decay)
    command.add_argument("--warmup-epochs", type=float, default=recipe.warmup_epochs)
    command.add_argument("--seed", type=int, default=recipe.seed)
    command.add_argument("--shortcut", type=Shortcut, choices=list(Shortcut), help="instead of the variant's own")
    command.add_argument("--precision", choices=["auto", *Precision], default="auto", help="bf16 where it is native")
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    return top


def run_list(_: argparse.Namespace) -> int:
    for name, spec in named_variants().items():
        shipped = ", weights shipped" if zoo_path(name).exists() else ""
        print(f"{name:20}{spec.stem} stem, {spec.block} blocks {spec.blocks_per_stage}{shipped}")
    return 0


def run_train(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    recipe = Recipe(
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_lr=options.peak_lr,
        weight_decay=options.weight_decay,
        warmup_epochs=options.warmup_epochs,
        precision=fastest_precision(device) if options.precision == "auto" else Precision(options.precision),
        seed=options.seed,
    )
    spec = spec_for(options.variant, shortcut=options.shortcut)
    folder = options.out or Path("runs") / f"{options.variant}-seed{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"reading {options.data}", flush=True)
    train_split, test_split = (load_split(options.data, part, spec.preprocessing) for part in Part)
    spec = spec_for(options.variant, shortcut=options.shortcut, num_classes=len(train_split.class_names))
    run = Run(folder, spec, recipe, train_split, test_split, device)
    print(
        f"training {spec.variant} on {len(train_split.images)} images of {train_split.name}, {recipe.epochs} epochs, "
        f"{recipe.precision} on {device}; run folder {folder}",
        flush=True,
    )
    accuracy = train(run)
    card = write_card(run.checkpoint_path)
    print(f"top-1 {accuracy.top1:.2%} ({accuracy.correct} of {accuracy.n}); {run.checkpoint_path}, {card}")
    return 0


def choose_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


if __name__ == "__main__":
    sys.exit(main())
