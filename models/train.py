"""The training recipe, resumable after a kill from the last whole epoch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from models.atomic_file import write_atomically
from models.data import Split, flip_and_crop, generator_for, normalised, shuffled_batches
from models.evaluate import Accuracy, evaluate
from models.resnet import ResNet, build
from models.spec import ModelSpec
from models.weights import CheckpointError, Description, write_checkpoint

GRADIENT_NORM_EVERY = 10  # steps; each costs a pass over all gradients


class DivergedError(ValueError):
    """The loss is no longer a number."""


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; weights, their updates and evaluation are always float32."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up then cosine decay to zero, mirrored and shifted images.

    The shape of He et al. 2015, section 4.2, with a smooth schedule; `weight_decay` applies to every parameter.
    """

    epochs: int = 50
    batch_size: int = 128
    peak_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 2.0
    crop_padding: int = 4
    precision: Precision = Precision.FP32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs is {self.epochs}, batch size {self.batch_size}: expected at least 1 of each")
        numbers = (self.peak_lr, self.weight_decay, self.warmup_epochs)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or not self.peak_lr:
            raise ValueError(
                f"peak lr is {self.peak_lr}, weight decay {self.weight_decay}, warm-up epochs {self.warmup_epochs}: "
                "expected finite numbers, none negative, and a peak lr above 0"
            )

    def lr(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of update `step`, counted from 0 over the whole run."""
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.peak_lr * (step + 1) / warmup
        progress = (step - warmup) / max(self.epochs * steps_per_epoch - warmup, 1)
        return self.peak_lr * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(slots=True)
class Run:
    """A training run in its folder: `state.safetensors` after every epoch, `VARIANT.log.jsonl` with a line for each."""

    folder: Path
    spec: ModelSpec
    recipe: Recipe
    train_split: Split
    test_split: Split
    device: torch.device

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.spec.variant}.log.jsonl"

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / f"{self.spec.variant}.safetensors"

    @property
    def identity(self) -> str:
        """What must be equal for a run to be continued rather than begun."""
        data = [self.train_split.name, self.train_split.images.fingerprint, self.test_split.images.fingerprint]
        return json.dumps({"spec": asdict(self.spec), "recipe": asdict(self.recipe), "data": data})


def train(run: Run) -> Accuracy:
    """Train to the recipe's last epoch and write the checkpoint; returns the last epoch's test accuracy.

    Raises:
        CheckpointError: the folder holds another run's state, or a damaged one.
        DivergedError: the loss of an epoch is not finite.
    """
    network = build(run.spec, seed=run.recipe.seed).to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=run.recipe.peak_lr,
        momentum=run.recipe.momentum,
        weight_decay=run.recipe.weight_decay,
        nesterov=True,
    )
    first_epoch = restore(run, network, optimizer)
    accuracy = evaluate(network, run.test_split.images, run.spec.preprocessing, run.device) if first_epoch else None
    steps = len(shuffled_batches(run.train_split.images, run.recipe.batch_size, run.recipe.seed, 0))
    with tqdm(
        total=run.recipe.epochs * steps,
        initial=first_epoch * steps,
        desc=run.spec.variant,
        unit="step",
        mininterval=1.0 if sys.stderr.isatty() else 30.0,  # a log file needs fewer lines
    ) as progress:
        for epoch in range(first_epoch, run.recipe.epochs):
            started = time.perf_counter()
            trained = train_one_epoch(run, network, optimizer, epoch, progress)
            seconds = time.perf_counter() - started
            if not math.isfinite(trained["train_loss"]):
                raise DivergedError(
                    f"epoch {epoch + 1}: the loss is {trained['train_loss']}, training diverged; try a lower --peak-lr "
                    f"in another --out. {run.state_path} holds the epochs before"
                )
            accuracy = evaluate(network, run.test_split.images, run.spec.preprocessing, run.device)
            progress.set_postfix(epoch=epoch + 1, test=f"{accuracy.top1:.2%}")
            line = trained | {
                "test_loss": round(accuracy.loss, 5),
                "test_accuracy": accuracy.top1,
                "seconds": round(seconds, 2),
            }
            with run.log_path.open("a") as log:
                log.write(json.dumps(line) + "\n")
            save_state(run, network, optimizer, epoch + 1)
    assert accuracy is not None
    if first_epoch == run.recipe.epochs and run.checkpoint_path.exists():
        return accuracy  # finished before: its checkpoint keeps its date and machine
    training = training_facts(run, accuracy)
    write_checkpoint(run.checkpoint_path, network, Description(run.spec, run.train_split.class_names, training))
    return accuracy


def train_one_epoch(
    run: Run, network: ResNet, optimizer: torch.optim.SGD, epoch: int, progress: tqdm[Any]
) -> dict[str, Any]:
    """One pass over the training set; returns its line of the log, the test set's part excepted."""
    recipe = run.recipe
    generator = generator_for(recipe.seed, recipe.epochs + epoch)  # a stream apart from the shuffling's
    batches = shuffled_batches(run.train_split.images, recipe.batch_size, recipe.seed, epoch)
    loss_sum = torch.zeros((), device=run.device)
    correct = torch.zeros((), device=run.device)
    seen, lr = 0, 0.0
    norms: dict[str, list[Tensor]] = defaultdict(list)
    network.train()
    for index, (images, labels) in enumerate(batches):
        images = flip_and_crop(images, recipe.crop_padding, generator)
        images, labels = images.to(run.device), labels.to(run.device)
        lr = recipe.lr(epoch * len(batches) + index, len(batches))
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(run.device.type, torch.bfloat16, enabled=recipe.precision is Precision.BF16):
            logits = network(normalised(images, run.spec.preprocessing))
        loss = cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if index % GRADIENT_NORM_EVERY == 0:
            for stage, norm in gradient_norms(network).items():
                norms[stage].append(norm)
        optimizer.step()
        loss_sum += loss.detach() * len(labels)
        correct += (logits.argmax(1) == labels).sum()
        seen += len(labels)
        progress.update()
    return {
        "epoch": epoch + 1,
        "lr": lr,
        "train_loss": round(float(loss_sum) / seen, 5),
        "train_accuracy": round(float(correct) / seen, 5),
        "gradient_norm": {stage: round(float(torch.stack(values).mean()), 5) for stage, values in norms.items()},
    }


def gradient_norms(network: nn.Module) -> dict[str, Tensor]:
    """Euclidean norm of the gradient over each stage's parameters; the stem and the head count as stages."""
    stages: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            top = name.partition(".")[0]
            stage = top if top.startswith("layer") else "stem" if top in {"conv1", "bn1"} else "head"
            stages[stage].append(parameter.grad)
    return {stage: torch.nn.utils.get_total_norm(gradients) for stage, gradients in stages.items()}


def save_state(run: Run, network: ResNet, optimizer: torch.optim.SGD, epochs_done: int) -> None:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        tensors[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {
            "identity": run.identity,
            "epochs_done": str(epochs_done),
        },
    )
    write_atomically(run.state_path, content)


def restore(run: Run, network: ResNet, optimizer: torch.optim.SGD) -> int:
    """Continue from the folder's state, if there is one; returns the number of epochs already done."""
    if not run.state_path.exists():
        run.log_path.write_text("")
        return 0
    try:
        with safe_open(run.state_path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:
        raise CheckpointError(f"{run.state_path}: damaged ({error}); remove {run.folder} to begin again") from error
    if metadata.get("identity") != run.identity:
        raise CheckpointError(
            f"{run.folder} holds another run:\n  found    {metadata.get('identity')}\n  expected {run.identity}\n"
            "continue it with its own options, or choose another --out"
        )
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    for name, parameter in network.named_parameters():
        momentum = tensors[f"momentum.{name}"].to(run.device)
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    epochs_done = int(metadata["epochs_done"])
    lines = run.log_path.read_text().splitlines(keepends=True)[:epochs_done]  # a kill may have left one more
    write_atomically(run.log_path, "".join(lines).encode())
    return epochs_done


def training_facts(run: Run, accuracy: Accuracy) -> dict[str, Any]:
    """What a model card says: the recipe, the data and the outcome."""
    return {
        "recipe": asdict(run.recipe),
        "data": run.train_split.name,
        "train_images": len(run.train_split.images),
        "test": {"correct": accuracy.correct, "n": accuracy.n, "top1": accuracy.top1},
        "finished": time.strftime("%Y-%m-%d"),
        "device": device_name(run.device),
        "torch": str(torch.__version__),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def fastest_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies it natively; elsewhere it is emulated and slower than fp32."""
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP32
    return Precision.BF16 if torch.cpu._is_avx512_bf16_supported() else Precision.FP32
