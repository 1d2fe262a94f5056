"""Checkpoints: safetensors that say which network they belong to and how they came about."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.atomic_file import write_atomically
from models.mismatch import mismatch
from models.resnet import ResNet, build
from models.spec import ModelSpec

ZOO = Path(__file__).parent / "zoo"
METADATA_KEY = "preflight"
COUNTER = "num_batches_tracked"  # of BatchNorm; some checkpoints leave it out
READ_AGAIN = "train it again with `python -m models train`, or fetch the file anew"


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable, or belongs to another network."""


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint's metadata: the network it fits, its class names, and what training recorded (empty if nothing)."""

    spec: ModelSpec
    class_names: tuple[str, ...]
    training: dict[str, Any]


DESCRIPTION = TypeAdapter(Description)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights by name, with their description and the sha256 of the file they came from."""

    description: Description
    tensors: dict[str, Tensor]
    sha256: str

    def network(self) -> ResNet:
        """The network in evaluation mode with these weights, every key and shape matched."""
        network = build(self.description.spec)
        expected = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}
        found = {name: tensor for name, tensor in self.tensors.items() if not name.endswith(COUNTER)}
        reason = mismatch(self.description.spec, shapes(expected), shapes(found))
        if reason:
            raise CheckpointError(reason)
        network.load_state_dict(self.tensors, strict=False)  # all but the counters, which nothing reads, was matched
        return network.eval()


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def write_checkpoint(path: Path, network: ResNet, description: Description) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, save(tensors, {METADATA_KEY: DESCRIPTION.dump_json(description).decode()}))


def describes_itself(path: Path) -> bool:
    """Whether a file is one of ours; False too where it cannot be read as safetensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one of our safetensors files.

    Raises:
        CheckpointError: the file is absent, damaged, or has no description of its network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        description = DESCRIPTION.validate_json(metadata[METADATA_KEY])
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); {READ_AGAIN}") from error
    except KeyError:
        raise CheckpointError(
            f"{path}: no {METADATA_KEY!r} in its metadata, so not one of ours; {READ_AGAIN}"
        ) from None
    except ValidationError as error:
        raise CheckpointError(f"{path}: its metadata does not describe a network ({error}); {READ_AGAIN}") from error
    return Checkpoint(description, tensors, hashlib.sha256(path.read_bytes()).hexdigest())


def zoo_path(variant: str) -> Path:
    """Where the weights shipped under this name lie, whether or not there are any."""
    return ZOO / f"{variant}.safetensors"
