"""Command line of `models`: list the variants, train, evaluate, and study how the orderings train."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.atomic_file import write_atomically
from models.card import write_card
from models.choice import choice_of, open_checkpoint
from models.data import SHOWN, DataError, Part, Split, load_split
from models.device import choose_device, fastest_precision
from models.recipe import FINE_TUNING, FROM_SCRATCH, Precision, Recipe
from models.spec import ModelSpec, Shortcut, SpecError, named_variants, spec_for
from models.weights import Checkpoint, CheckpointError, zoo_path


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

    command = commands.add_parser("list", help="every named variant, and whether its weights are shipped")
    command.set_defaults(run=run_list)

    command = commands.add_parser(
        "train", help="train or fine-tune one variant; run again after a kill, it resumes from the last epoch"
    )
    command.set_defaults(run=run_train)
    command.add_argument("variant", help="such as resnet20-preact")
    add_data(command)
    command.add_argument(
        "--init",
        metavar="MODEL",
        help="fine-tune these weights, with a new head unless the classes are the same: a shipped variant's name, a "
        "checkpoint of ours, torchvision's or timm's, or a TOML model file (see `python -m export --help`)",
    )
    command.add_argument("--out", type=Path, help="folder of the run (default: runs/VARIANT-seedN)")
    add_recipe(command)
    command.add_argument("--seed", type=int, default=0, help="default: 0")
    command.add_argument("--shortcut", type=Shortcut, choices=list(Shortcut), help="instead of the variant's own")
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: cuda if there is")
    command.add_argument("--devices", type=int, default=1, help="how many to share each batch among (default: 1)")

    command = commands.add_parser(
        "evaluate", help="accuracy, calibration and classes of one network, or of two on the same images"
    )
    command.set_defaults(run=run_evaluate)
    command.add_argument(
        "networks", nargs="+", metavar="MODEL", help="a shipped variant's name, a checkpoint of ours, or a model file"
    )
    add_data(command)
    command.add_argument(
        "--part", type=Part, choices=list(Part), default=Part.TEST, help="whole: of a folder that nothing learnt from"
    )
    command.add_argument("--out", type=Path, default=Path("build/evaluation"), help="default: build/evaluation")
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")

    command = commands.add_parser(
        "study", help="train both orderings at several depths and seeds; run again, it resumes; draws what is there"
    )
    command.set_defaults(run=run_study)
    add_data(command)
    command.add_argument("--depths", type=int, nargs="+", default=[8, 14, 20], metavar="DEPTH", help="default: 8 14 20")
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")
    command.add_argument("--out", type=Path, default=Path("runs/study"), help="default: runs/study")
    command.add_argument("--jobs", type=int, default=1, help="how many to train at a time (default: 1)")
    command.add_argument("--target", type=float, help="test accuracy, 0 to 1, to count the epochs to (default: a "
                         "multiple of 5 %% that every run of a depth reaches)")  # fmt: skip
    add_recipe(command)
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    return top


def add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, help="CIFAR-10 (npz or python batches) or image folders")


def add_recipe(command: argparse.ArgumentParser) -> None:
    for name, kind in RECIPE_OPTIONS.items():
        scratch, tuned = getattr(FROM_SCRATCH, name), getattr(FINE_TUNING, name)
        default = f"default: {scratch}" + ("" if scratch == tuned else f", {tuned} when fine-tuning")
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, help=default)
    command.add_argument("--crop-padding", type=int, help="pixels to shift images by (default: an eighth of the crop)")
    command.add_argument("--precision", choices=["auto", *Precision], default="auto", help="default: bf16 if native")


RECIPE_OPTIONS = {"epochs": int, "batch_size": int, "peak_lr": float, "weight_decay": float, "warmup_epochs": float}


def recipe_of(options: argparse.Namespace, spec: ModelSpec, *, fine_tuning: bool, seed: int) -> Recipe:
    said = {name: getattr(options, name) for name in RECIPE_OPTIONS if getattr(options, name) is not None}
    padding = options.crop_padding if options.crop_padding is not None else spec.preprocessing.crop // 8
    precision = options.precision
    if precision == "auto":
        precision = fastest_precision(choose_device(options.device))
    base = FINE_TUNING if fine_tuning else FROM_SCRATCH
    return replace(base, crop_padding=padding, precision=Precision(precision), seed=seed, **said)


def run_list(_: argparse.Namespace) -> int:
    for name, spec in named_variants().items():
        shipped = ", weights shipped" if zoo_path(name).exists() else ""
        print(f"{name:20}{spec.stem} stem, {spec.block} blocks {spec.blocks_per_stage}{shipped}")
    return 0


def run_train(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    initial = initial_checkpoint(options)
    spec = initial.description.spec if initial else spec_for(options.variant, shortcut=options.shortcut)
    recipe = recipe_of(options, spec, fine_tuning=initial is not None, seed=options.seed)
    folder = options.out or Path("runs") / f"{options.variant}-seed{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)

    from lightning_fabric import Fabric  # noqa: PLC0415  it takes seconds to import, errors come sooner

    from models.train import Run, train  # noqa: PLC0415

    fabric = Fabric(
        accelerator=device.type,
        devices=options.devices,
        strategy="auto" if options.devices == 1 else "ddp",
        precision="bf16-mixed" if recipe.precision is Precision.BF16 else "32-true",
    )
    fabric.launch()
    say = print if fabric.is_global_zero else lambda *_, **__: None
    say(f"reading {options.data}", flush=True)
    train_split, test_split = (load_split(options.data, part, spec.preprocessing) for part in (Part.TRAIN, Part.TEST))
    if fabric.is_global_zero:
        list_unreadable([*train_split.unreadable, *test_split.unreadable], folder / "unreadable.txt")
    spec = replace(spec, num_classes=len(train_split.class_names))
    run = Run(folder, spec, recipe, train_split, test_split, fabric, initial)
    begin = "training" if initial is None else f"fine-tuning, {'its head kept' if run.keeps_head else 'a new head'},"
    say(
        f"{begin} {spec.variant} on {len(train_split.images)} images of {train_split.name}, "
        f"{len(train_split.class_names)} classes, {recipe.epochs} epochs, {recipe.precision} on {options.devices} x "
        f"{device}; run folder {folder}",
        flush=True,
    )
    accuracy = train(run)
    if fabric.is_global_zero:
        card = write_card(run.checkpoint_path)
        print(f"top-1 {accuracy.top1:.2%} ({accuracy.correct} of {accuracy.n}); {run.checkpoint_path}, {card}")
    return 0


def initial_checkpoint(options: argparse.Namespace) -> Checkpoint | None:
    """What fine-tuning starts from, matched to the variant."""
    if options.init is None:
        return None
    if options.shortcut is not None:
        raise SpecError("--shortcut goes with training from scratch; a TOML model file says it of --init's weights")
    checkpoint = open_checkpoint(choice_of(options.init, options.variant))
    checkpoint.network()  # a mismatch shows now and not after the data was read
    return checkpoint


def list_unreadable(unreadable: Sequence[str], path: Path | None = None) -> None:
    if not unreadable:
        return
    where = ""
    if path is not None:
        write_atomically(path, "".join(f"{line}\n" for line in unreadable).encode())
        where = f"; all are listed in {path}"
    shown = "".join(f"\n  {line}" for line in unreadable[:SHOWN])
    more = f"\n  and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
    print(f"warning: {len(unreadable)} files cannot be decoded and are left out{where}{shown}{more}", file=sys.stderr)


def run_evaluate(options: argparse.Namespace) -> int:
    if len(options.networks) > 2:
        raise SpecError(f"{len(options.networks)} networks were named; evaluate one, or compare two")
    device = choose_device(options.device)
    checkpoints = [open_checkpoint(choice_of(text)) for text in options.networks]
    splits = splits_for(checkpoints, options)
    list_unreadable(splits[0].unreadable)

    from models.evaluation import answers  # noqa: PLC0415  scipy and matplotlib take a second, errors come sooner
    from models.evaluation_report import as_text, summary, write_figure  # noqa: PLC0415

    found = [
        answers(checkpoint, name, split, device)
        for checkpoint, name, split in zip(checkpoints, names(options.networks), splits, strict=True)
    ]
    if len(found) == 2 and found[0].class_names != found[1].class_names:
        raise DataError("the two networks do not know the same classes in the same order; evaluate one at a time")
    data = f"{options.data}, {options.part} part"
    print(as_text(found, data, splits[0].unreadable))
    result = summary(found, data, splits[0].unreadable)
    write_atomically(options.out / "evaluation.json", (json.dumps(result, indent=2) + "\n").encode())
    write_figure(found, options.out / "evaluation.svg")
    print(f"\n{options.out / 'evaluation.json'}, {options.out / 'evaluation.svg'}")
    return 0


def splits_for(checkpoints: Sequence[Checkpoint], options: argparse.Namespace) -> list[Split]:
    """The same images as each network wants to see them; read once if they want the same."""
    by_preprocessing = {}
    for checkpoint in checkpoints:
        preprocessing = checkpoint.description.spec.preprocessing
        if preprocessing not in by_preprocessing:
            by_preprocessing[preprocessing] = load_split(options.data, options.part, preprocessing)
    return [by_preprocessing[checkpoint.description.spec.preprocessing] for checkpoint in checkpoints]


def names(networks: Sequence[str]) -> list[str]:
    """File names where they tell the networks apart, else paths."""
    short = [Path(text).stem if Path(text).suffix else text for text in networks]
    return short if len(set(short)) == len(short) else list(networks)


def run_study(options: argparse.Namespace) -> int:
    from models.study import Study, run_all  # noqa: PLC0415
    from models.study_report import write_report  # noqa: PLC0415  matplotlib takes a second

    specs = [spec_for(f"resnet{depth}-postact") for depth in options.depths]
    recipe = recipe_of(options, specs[0], fine_tuning=False, seed=0)
    device = choose_device(options.device)
    study = Study(options.out, options.data, tuple(options.depths), tuple(options.seeds), recipe, device.type)
    failed = run_all(study, options.jobs)
    for line in write_report(study, options.target):
        print(line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
