"""Training and fine-tuning, on one device or several; resumable after a kill from the last whole epoch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from models.accuracy import Accuracy, evaluate
from models.atomic_file import write_atomically
from models.data import Split, flip_and_crop, generator_for, normalised, shuffled_batches
from models.recipe import Recipe
from models.resnet import ResNet, build
from models.spec import ModelSpec
from models.weights import Checkpoint, CheckpointError, Description, read_checkpoint, write_checkpoint

GRADIENT_NORM_EVERY = 10  # steps; each costs a pass over all gradients


class DivergedError(ValueError):
    """The loss is no longer a number."""


@dataclass(slots=True)
class Run:
    """A training run in its folder: `state.safetensors` after every epoch, `VARIANT.log.jsonl` with a line for each.

    `initial` is the checkpoint that fine-tuning starts from.
    """

    folder: Path
    spec: ModelSpec
    recipe: Recipe
    train_split: Split
    test_split: Split
    fabric: Fabric
    initial: Checkpoint | None = None

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
        same = {"spec": asdict(self.spec), "recipe": asdict(self.recipe), "data": data}
        return json.dumps(same | ({"initial": self.initial.sha256} if self.initial else {}))

    @property
    def keeps_head(self) -> bool:
        """Whether the classes are those that the initial checkpoint knows."""
        return self.initial is not None and self.initial.description.class_names == self.train_split.class_names


def train(run: Run) -> Accuracy:
    """Train to the recipe's last epoch and write the checkpoint; returns the last epoch's test accuracy.

    Raises:
        CheckpointError: the folder is in use, holds another run's state, or a damaged one.
        DivergedError: the loss of an epoch is not finite.
    """
    with alone(run):
        return train_alone(run)


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """Two runs in one folder would overwrite each other's state."""
    lock = FileLock(run.folder / ".lock")
    if run.fabric.is_global_zero:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(
                f"{run.folder}: another process trains in it; wait for it, or choose another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def train_alone(run: Run) -> Accuracy:
    fabric, device = run.fabric, run.fabric.device
    network = initial_network(run).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=run.recipe.peak_lr,
        momentum=run.recipe.momentum,
        weight_decay=run.recipe.weight_decay,
        nesterov=True,
    )
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    first_epoch = restore(run, network, optimizer)
    if first_epoch == run.recipe.epochs and run.checkpoint_path.exists():
        return recorded_accuracy(run.checkpoint_path)  # finished before: its checkpoint keeps its date and machine
    accuracy = None
    steps = len(epoch_batches(run, 0))
    with tqdm(
        total=run.recipe.epochs * steps,
        initial=first_epoch * steps,
        desc=run.spec.variant,
        unit="step",
        mininterval=1.0 if sys.stderr.isatty() else 30.0,  # a log file needs fewer lines
        disable=not fabric.is_global_zero,
    ) as progress:
        for epoch in range(first_epoch, run.recipe.epochs):
            started = time.perf_counter()
            trained = train_one_epoch(run, wrapped, wrapped_optimizer, epoch, progress)
            seconds = time.perf_counter() - started
            if not math.isfinite(trained["train_loss"]):
                raise DivergedError(
                    f"epoch {epoch + 1}: the loss is {trained['train_loss']}, training diverged; try a lower --peak-lr "
                    f"in another --out. {run.state_path} holds the epochs before"
                )
            accuracy = evaluate(network, run.test_split.images, run.spec.preprocessing, device)
            progress.set_postfix(epoch=epoch + 1, test=f"{accuracy.top1:.2%}")
            line = trained | {
                "test_loss": round(accuracy.loss, 5),
                "test_accuracy": accuracy.top1,
                "seconds": round(seconds, 2),
            }
            if fabric.is_global_zero:
                with run.log_path.open("a") as log:
                    log.write(json.dumps(line) + "\n")
                save_state(run, network, optimizer, epoch + 1)
    if accuracy is None:  # killed between the last state and the checkpoint
        accuracy = evaluate(network, run.test_split.images, run.spec.preprocessing, device)
    if fabric.is_global_zero:
        description = Description(run.spec, run.train_split.class_names, training_facts(run, accuracy))
        write_checkpoint(run.checkpoint_path, network, description)
    fabric.barrier()
    return accuracy


def initial_network(run: Run) -> ResNet:
    """Random weights, or the initial checkpoint's with a head for the new classes."""
    network = build(run.spec, seed=run.recipe.seed)
    if run.initial is not None:
        weights = run.initial.network().state_dict()
        if not run.keeps_head:
            weights |= {name: tensor for name, tensor in network.state_dict().items() if name.startswith("fc.")}
        network.load_state_dict(weights)
    return network


def epoch_batches(run: Run, epoch: int) -> Any:
    share = (run.fabric.global_rank, run.fabric.world_size)
    return shuffled_batches(run.train_split.images, run.recipe.batch_size, run.recipe.seed, epoch, share)


def train_one_epoch(run: Run, network: nn.Module, optimizer: Any, epoch: int, progress: tqdm[Any]) -> dict[str, Any]:
    """One pass over the training set; returns its line of the log, the test set's part excepted."""
    recipe, fabric = run.recipe, run.fabric
    # a stream apart from the shuffling's
    generator = generator_for(recipe.seed, recipe.epochs + epoch, device=fabric.global_rank)
    batches = epoch_batches(run, epoch)
    sums = torch.zeros(2, device=fabric.device, dtype=torch.float64)  # of the loss and of the correct
    seen, lr = 0, 0.0
    norms: dict[str, list[Tensor]] = defaultdict(list)
    network.train()
    for index, (images, labels) in enumerate(batches):
        images, labels = images.to(fabric.device), labels.to(fabric.device)
        images = flip_and_crop(images, recipe.crop_padding, generator)
        lr = recipe.lr(epoch * len(batches) + index, len(batches))
        for group in optimizer.param_groups:
            group["lr"] = lr
        logits = network(normalised(images, run.spec.preprocessing))
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        fabric.backward(loss)
        if index % GRADIENT_NORM_EVERY == 0:
            for stage, norm in gradient_norms(network).items():
                norms[stage].append(norm)
        optimizer.step()
        sums += torch.stack([loss.detach() * len(labels), (logits.argmax(1) == labels).sum()])
        seen += len(labels)
        progress.update()
    whole = fabric.all_reduce(sums / seen, reduce_op="mean")  # the shares of a batch are equal
    train_loss, train_accuracy = whole.tolist()  # type: ignore[union-attr]
    return {
        "epoch": epoch + 1,
        "lr": lr,
        "train_loss": round(train_loss, 5),
        "train_accuracy": round(train_accuracy, 5),
        "gradient_norm": {stage: round(float(torch.stack(values).mean()), 5) for stage, values in norms.items()},
    }


def gradient_norms(network: nn.Module) -> dict[str, Tensor]:
    """Euclidean norm of the gradient over each stage's parameters; the stem and the head count as stages."""
    stages: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            top = name.removeprefix("_forward_module.").removeprefix("module.").partition(".")[0]
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
    fabric = run.fabric
    if not run.state_path.exists():
        if fabric.is_global_zero:
            run.log_path.write_text("")
        return 0
    try:
        with safe_open(run.state_path, framework="pt") as file:
            metadata = file.metadata() or {}
            identity = flat(json.loads(metadata.get("identity", "{}")))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:
        raise CheckpointError(f"{run.state_path}: damaged ({error}); remove {run.folder} to begin again") from error
    if metadata.get("identity") != run.identity:
        raise CheckpointError(
            f"{run.folder} holds another run:\n{difference(identity, flat(json.loads(run.identity)))}\n"
            "continue it with its own options, or choose another --out"
        )
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    for name, parameter in network.named_parameters():
        momentum = tensors[f"momentum.{name}"].to(fabric.device)
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    epochs_done = int(metadata["epochs_done"])
    if fabric.is_global_zero:
        lines = run.log_path.read_text().splitlines(keepends=True)[:epochs_done]  # a kill may have left one more
        write_atomically(run.log_path, "".join(lines).encode())
    return epochs_done


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """A line for each value in which two identities differ."""
    names = [name for name in expected | found if expected.get(name) != found.get(name)]
    return "\n".join(f"  {name}: found {found.get(name)}, expected {expected.get(name)}" for name in names)


def flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, such as `recipe.seed`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{within}{name}.") if isinstance(value, dict) else {within + name: value}
    return found


def recorded_accuracy(path: Path) -> Accuracy:
    test = read_checkpoint(path).description.training["test"]
    return Accuracy(test["correct"], test["n"], test.get("loss", math.nan))


def training_facts(run: Run, accuracy: Accuracy) -> dict[str, Any]:
    """What a model card says: the recipe, the data and the outcome."""
    facts: dict[str, Any] = {
        "recipe": asdict(run.recipe),
        "data": run.train_split.name,
        "train_images": len(run.train_split.images),
        "test": {"correct": accuracy.correct, "n": accuracy.n, "top1": accuracy.top1},
        "finished": time.strftime("%Y-%m-%d"),
        "device": device_name(run.fabric),
        "torch": str(torch.__version__),
    }
    if run.initial is not None:
        variant = run.initial.description.spec.variant
        facts["initial"] = {"variant": variant, "sha256": run.initial.sha256, "kept_head": run.keeps_head}
    unreadable = len(run.train_split.unreadable) + len(run.test_split.unreadable)
    if unreadable:
        facts["unreadable_files"] = unreadable
    return facts


def device_name(fabric: Fabric) -> str:
    name = f"CPU, {torch.get_num_threads()} threads"
    if fabric.device.type == "cuda":
        name = torch.cuda.get_device_name(fabric.device)
    return name if fabric.world_size == 1 else f"{fabric.world_size} x {name}"
