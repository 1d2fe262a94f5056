"""Checkpoints: safetensors that say which network they belong to and how they came about."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.atomic_file import write_atomically
from models.resnet import ResNet, build
from models.spec import ModelSpec

ZOO = Path(__file__).parent / "zoo"
METADATA_KEY = "preflight"


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable, or belongs to another network."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights by name, the network they fit, its class names, and what training recorded (empty if nothing)."""

    spec: ModelSpec
    class_names: tuple[str, ...]
    training: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str

    def network(self) -> ResNet:
        """The network in evaluation mode with these weights, every key and shape matched."""
        network = build(self.spec)
        expected = network.state_dict()
        missing = sorted(expected.keys() - self.tensors.keys())
        surplus = sorted(self.tensors.keys() - expected.keys())
        misshapen = [
            f"{key} {tuple(self.tensors[key].shape)}, expected {tuple(expected[key].shape)}"
            for key in sorted(expected.keys() & self.tensors.keys())
            if expected[key].shape != self.tensors[key].shape
        ]
        if missing or surplus or misshapen:
            raise CheckpointError(
                f"the weights do not fit {self.spec.variant}: missing {missing}, surplus {surplus}, "
                f"misshapen {misshapen}"
            )
        network.load_state_dict(self.tensors)
        return network.eval()


def write_checkpoint(
    path: Path, network: ResNet, spec: ModelSpec, class_names: tuple[str, ...], training: dict[str, Any]
) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    description = {"spec": spec.to_dict(), "class_names": class_names, "training": training}
    write_atomically(path, save(tensors, {METADATA_KEY: json.dumps(description)}))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one of our safetensors files.

    Raises:
        CheckpointError: the file is absent, damaged, or has no description of its network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        description = json.loads(metadata[METADATA_KEY])
        spec = ModelSpec.from_dict(description["spec"])
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata does not describe a network ({error!r})") from error
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(spec, tuple(description["class_names"]), description["training"], tensors, sha256)


def zoo_path(variant: str) -> Path:
    """Where the weights shipped under this name lie, whether or not there are any."""
    return ZOO / f"{variant}.safetensors"
