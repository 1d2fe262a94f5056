"""Checkpoints that other code wrote: torchvision's, timm's, and those of CIFAR repositories.

They hold weights by name and nothing else, so the network that they fit has to be named.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.weights import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")  # of training loops, around the weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
STEMS = ("conv1.weight", "stem.conv.weight")  # one of them tells names that we know

# Others' names -> ours, applied in this order to every name. timm's `resnet*` and torchvision have our names already.
RENAMES = (
    # timm's resnetv2_*: stages and blocks by number, BN and ReLU in one module, a 1x1 convolution as the head
    (r"^stem\.conv\.", "conv1."),
    (r"^stages\.0\.blocks\.", "layer1."),
    (r"^stages\.1\.blocks\.", "layer2."),
    (r"^stages\.2\.blocks\.", "layer3."),
    (r"^stages\.3\.blocks\.", "layer4."),
    (r"^(layer\d\.\d+)\.norm(\d)\.", r"\1.bn\2."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.norm\.", ".downsample.1."),
    (r"^head\.fc\.", "fc."),
    # CIFAR repositories
    (r"\.shortcut\.(\d)\.", r".downsample.\1."),
    (r"^linear\.", "fc."),
)


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Weights by our names, as float32, from a safetensors file or from torch's own format without running its code.

    Raises:
        CheckpointError: the file is absent, damaged, or holds something other than weights by name.
    """
    named = without_prefix(named_tensors(path, read_file(path)))
    tensors = {rename(name): tensor for name, tensor in named.items()}
    return {name: as_ours(name, tensor) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            magic = file.read(2)
        if magic == b"PK" or magic[:1] == b"\x80":  # torch's zip, or its older bare pickle
            return torch.load(path, map_location="cpu", weights_only=True)
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except pickle.UnpicklingError:  # torch's own reason is of its options, and colours the terminal
        raise CheckpointError(
            f"{path}: holds more than tensors, which only running its code could read: a pickled module or other "
            "objects, which are not loaded; nothing was run. A state dict is needed; where you trust the file, "
            "torch.save(model.state_dict(), FILE)"
        ) from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: neither a readable safetensors file nor torch's ({error})") from error


def named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The weights inside a training loop's wrapper."""
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    found = {} if not isinstance(content, dict) else content
    tensors = {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    if not tensors or len(tensors) < len(found):
        others = [str(name) for name in found if name not in tensors][:5]
        raise CheckpointError(
            f"{path}: expected weights by name, or a dictionary with them under one of {', '.join(WRAPPERS)}; "
            f"found {type(content).__name__} with {len(tensors)} tensors" + (f" beside {others}" if others else "")
        )
    return tensors


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what they all begin with, such as Lightning's `model.`, where names that we know are left."""
    candidates = (name.removesuffix(stem) for name in tensors for stem in STEMS if f".{name}".endswith(f".{stem}"))
    prefix = next((each for each in candidates if all(name.startswith(each) for name in tensors)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def rename(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def as_ours(name: str, tensor: Tensor) -> Tensor:
    """A head that is a 1x1 convolution becomes the linear map that it is; half precision becomes float32."""
    if name == "fc.weight" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor.flatten(1)
    return tensor.float().contiguous()
