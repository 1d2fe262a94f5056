"""Datasets for training and evaluation: CIFAR-10 (npz or its python batches) and folders of images."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler
from tqdm import tqdm

from models.pixels import ImageError, read_pixels
from models.spec import Preprocessing

Batch = tuple[Tensor, Tensor]  # uint8 [B, 3, H, W], int64 [B]
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
LabelledFile = tuple[Path, int]
SHOWN = 10  # lines of a list in a message
HELD_OUT = 10  # without a folder of its own, every tenth image of a class is the test set


class DataError(ValueError):
    """The data set is absent, incomplete or unreadable."""


class ArrayImages(Dataset[Batch]):
    """Images held in memory: uint8 [N, 3, H, W] and their labels."""

    workers: ClassVar[int] = 0

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[Any], classes: int) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or labels.shape != images.shape[:1]:
            found = f"images {images.dtype} {images.shape}, labels {labels.shape}"
            raise DataError(f"found {found}, expected uint8 [N, 3, H, W] and [N]")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise DataError(f"labels go from {labels.min()} to {labels.max()}, there are {classes} class names")
        self.images = torch.from_numpy(np.ascontiguousarray(images))
        self.labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """A digest of what the set holds."""
        content = hashlib.sha256(self.images.numpy().tobytes())
        content.update(self.labels.numpy().tobytes())
        return content.hexdigest()[:16]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.labels[chosen]


class FolderImages(Dataset[Batch]):
    """Image files, decoded as they are asked for and brought to the network's input size."""

    workers: ClassVar[int] = min(os.cpu_count() or 1, 8)

    def __init__(self, files: Sequence[LabelledFile], preprocessing: Preprocessing) -> None:
        self.files = files
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        images = np.stack([self.read(self.files[index][0]) for index in indices])
        labels = torch.tensor([self.files[index][1] for index in indices])
        return torch.from_numpy(images).permute(0, 3, 1, 2), labels

    def read(self, path: Path) -> NDArray[np.uint8]:
        try:
            return read_pixels(path, self.preprocessing)
        except ImageError as error:
            raise DataError(f"{path}: {error}") from error

    @property
    def fingerprint(self) -> str:
        """A digest of what the set holds, by names and sizes: the files may be too many to read."""
        entries = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path, _ in self.files]
        return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16]


class Part(StrEnum):
    """Training never sees the test part. The whole is for evaluation on data that nothing was trained on."""

    TRAIN = "train"
    TEST = "test"
    WHOLE = "whole"


@dataclass(frozen=True)
class Split:
    """One part of a labelled data set; a label is an index into `class_names`.

    `unreadable` has a line for every file that looked like an image and could not be decoded; `images` lacks them.
    """

    name: str
    class_names: tuple[str, ...]
    images: ArrayImages | FolderImages
    unreadable: tuple[str, ...] = ()


def load_split(folder: Path, part: Part, preprocessing: Preprocessing) -> Split:
    """Read CIFAR-10 as `cifar10-{train,test}.npz` or python batches, else a folder with one sub-folder a class.

    Every image of a folder is decoded once to find those that cannot be: better before a training than during it.

    Raises:
        DataError: the folder is absent, a class is empty or has too few images, or CIFAR-10 is incomplete.
    """
    batches = next(
        (path for path in (folder, folder / "cifar-10-batches-py") if (path / "batches.meta").is_file()), None
    )
    is_array_set = (folder / "cifar10-test.npz").is_file()
    if part is Part.WHOLE and (is_array_set or batches):
        raise DataError(f"{folder}: CIFAR-10 comes as a train and a test part; ask for one of them")
    if is_array_set:
        return read_cifar_npz(folder / f"cifar10-{part}.npz")
    if batches is not None:
        return read_cifar_batches(batches, part)
    if folder.is_dir():
        return read_image_folder(folder, part, preprocessing)
    raise DataError(f"{folder}: no such folder; expected CIFAR-10 (npz or python batches) or one sub-folder a class")


def read_cifar_npz(path: Path) -> Split:
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # allow_pickle is off
            class_names = tuple(str(name) for name in arrays["class_names"])
            images = ArrayImages(arrays["images"], arrays["labels"], len(class_names))
            return Split("cifar10", class_names, images)
    except Exception as error:  # zip and LZMA have errors of their own
        raise DataError(f"{path}: expected arrays images, labels and class_names ({error})") from error


def read_cifar_batches(folder: Path, part: Part) -> Split:
    files = [f"data_batch_{number}" for number in range(1, 6)] if part is Part.TRAIN else ["test_batch"]
    batches = [read_cifar_pickle(folder / name) for name in files]
    try:
        names = read_cifar_pickle(folder / "batches.meta")[b"label_names"]
        class_names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
        images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batch[b"labels"] for batch in batches])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: its batches lack data, labels or label_names ({error!r})") from error
    return Split("cifar10", class_names, ArrayImages(images, labels, len(class_names)))


class ArraysOnly(pickle.Unpickler):
    """CIFAR-10 is published as pickles: lists, bytes and NumPy arrays. Nothing else may be built, let alone called."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, a CIFAR-10 batch holds arrays only")
        return super().find_class(module, name)


def read_cifar_pickle(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            content = ArraysOnly(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path}: not a CIFAR-10 python batch ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected the dictionary of a CIFAR-10 batch")
    return content


def read_image_folder(folder: Path, part: Part, preprocessing: Preprocessing) -> Split:
    """`train/CLASS/*` with `val` or `test` beside it, or `CLASS/*` of which every tenth image is held out."""
    held_out = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and held_out is not None:
        if part is Part.WHOLE:
            raise DataError(f"{folder}: has a train part; give {held_out} for evaluation on all of it")
        class_names = class_folders(folder / "train")
        surplus = set(class_folders(held_out)) - set(class_names)
        if surplus:
            raise DataError(f"{held_out}: has classes that {folder / 'train'} lacks: {', '.join(sorted(surplus))}")
        by_class = files_by_class(folder / "train" if part is Part.TRAIN else held_out, class_names)
    else:
        class_names = class_folders(folder)
        by_class = files_by_class(folder, class_names)
        if part is not Part.WHOLE:
            for files in by_class:
                files[:] = [
                    item for number, item in enumerate(files) if (number % HELD_OUT == 0) is (part is Part.TEST)
                ]
    files, unreadable = sort_out([item for files in by_class for item in files], preprocessing)
    refuse_small_classes(folder, part, class_names, files, unreadable)
    return Split(folder.name, class_names, FolderImages(files, preprocessing), unreadable)


def class_folders(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if len(names) < 2:
        raise DataError(f"{folder}: {len(names)} class folders, expected at least 2")
    return names


def files_by_class(folder: Path, class_names: Sequence[str]) -> list[list[LabelledFile]]:
    found = []
    for label, name in enumerate(class_names):
        entries = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        found.append([(path, label) for path in entries if path.suffix.lower() in IMAGE_SUFFIXES])
    return found


def sort_out(files: Sequence[LabelledFile], preprocessing: Preprocessing) -> tuple[list[LabelledFile], tuple[str, ...]]:
    """The files that can be decoded, and a line for each of the others."""

    def problem(file: LabelledFile) -> str | None:
        try:
            read_pixels(file[0], preprocessing)
        except (ImageError, OSError) as error:
            return f"{file[0]}: {error}"
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = tqdm(pool.map(problem, files), "checking images", len(files), unit="image", leave=False, delay=2)
        problems = list(checked)
    readable = [file for file, found in zip(files, problems, strict=True) if found is None]
    return readable, tuple(found for found in problems if found is not None)


def refuse_small_classes(
    folder: Path, part: Part, class_names: Sequence[str], files: Sequence[LabelledFile], unreadable: Sequence[str]
) -> None:
    """A class of one image can be learnt by heart and no more; one without a test image cannot be judged."""
    fewest = 2 if part is Part.TRAIN else 1
    counts = np.bincount([label for _, label in files], minlength=len(class_names))
    small = [f"{name} has {count}" for name, count in zip(class_names, counts, strict=True) if count < fewest]
    if small:
        raise DataError(
            f"{folder}: {len(small)} of {len(class_names)} classes have too few readable images in the {part} part: "
            f"{', '.join(small[:SHOWN])}{', ...' if len(small) > SHOWN else ''}; expected at least {fewest} each. "
            f"Read were {', '.join(sorted(IMAGE_SUFFIXES))}, of {len(files) + len(unreadable)} files {len(unreadable)} "
            "could not be decoded; without a val or test folder every tenth image of a class, its first included, is "
            "the test part" + "".join(f"\n  {line}" for line in unreadable[:SHOWN])
        )


class ShareOfBatches(Sampler[list[int]]):
    """Every `count`th image of each batch, from the `index`th on: equal shares, so that their mean is the batch's."""

    def __init__(self, batches: BatchSampler, index: int, count: int) -> None:
        self.batches, self.index, self.count = batches, index, count

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[self.index : len(batch) // self.count * self.count : self.count]


def shuffled_batches(
    dataset: ArrayImages | FolderImages, batch_size: int, seed: int, epoch: int, share: tuple[int, int] = (0, 1)
) -> DataLoader[Batch]:
    """One epoch's batches in an order that depends on seed and epoch alone; a short last batch is dropped.

    `share` is (index, count) where the images of a batch are divided among devices.
    """
    generator = generator_for(seed, epoch)
    batches = BatchSampler(
        RandomSampler(range(len(dataset)), generator=generator), batch_size, drop_last=len(dataset) > batch_size
    )
    return DataLoader(
        dataset,
        batch_sampler=ShareOfBatches(batches, *share),
        collate_fn=as_is,
        num_workers=dataset.workers,
        generator=generator,
    )


def batches_in_order(dataset: ArrayImages | FolderImages, batch_size: int) -> DataLoader[Batch]:
    return DataLoader(dataset, batch_size, shuffle=False, collate_fn=as_is, num_workers=dataset.workers)


def as_is(batch: Any) -> Any:
    """`__getitems__` has collated it already."""
    return batch


def generator_for(seed: int, epoch: int, device: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch + device * 500_009)


def flip_and_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Mirror half the images and shift each by up to `padding` pixels over black (He et al. 2015, section 4.2).

    The generator is the CPU's, wherever the images are: the same augmentation on every kind of device.
    """
    count, _, height, width = images.shape
    flipped = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    windows = torch.nn.functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = torch.randint(2 * padding + 1, (2, count), generator=generator).to(images.device)
    return windows[torch.arange(count, device=images.device), :, rows, columns]


def normalised(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 of the same shape, `(pixel / 255 - mean) / std`, channels last in memory."""
    mean = torch.tensor(preprocessing.mean, device=images.device)[:, None, None]
    std = torch.tensor(preprocessing.std, device=images.device)[:, None, None]
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
