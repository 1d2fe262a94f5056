"""Data sets are read whole, or refused with a reason; augmentation does what it says."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import ArrayImages, DataError, Part, flip_and_crop, generator_for, load_split, shuffled_batches
from models.spec import CIFAR_PREPROCESSING
from tests.conftest import SHARED_DATA

PARTS = (Part.TRAIN, Part.TEST)
CIFAR_NAMES = b"airplane automobile bird cat deer dog frog horse ship truck".split()


def write_batches(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        batch = {b"data": generator.integers(0, 256, (4, 3072), dtype=np.uint8), b"labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": CIFAR_NAMES}, protocol=2))


def test_cifar_python_batches_are_read(tmp_path: Path) -> None:
    write_batches(tmp_path)
    train = load_split(tmp_path, Part.TRAIN, CIFAR_PREPROCESSING)
    test = load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)
    assert (len(train.images), len(test.images)) == (20, 4)
    assert train.class_names[:4] == ("airplane", "automobile", "bird", "cat")
    images, labels = train.images.__getitems__([1, 2])
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [1, 2]


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(DataError, match=r"mkdir, a CIFAR-10 batch holds arrays only"):
        load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)
    assert not Path("was-run").exists()


def image_folder(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), images: int = 20) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (40, 50), (number, 0, 0)).save(folder / name / f"{number:02}.png")


def test_a_folder_of_classes_holds_out_every_tenth_image(tmp_path: Path) -> None:
    image_folder(tmp_path)
    train, test = (load_split(tmp_path, part, CIFAR_PREPROCESSING) for part in PARTS)
    assert (len(train.images), len(test.images)) == (36, 4)
    assert train.class_names == ("cat", "dog")
    images, labels = test.images.__getitems__(range(4))
    assert images.shape == (4, 3, 32, 32)
    assert labels.tolist() == [0, 0, 1, 1]
    assert images[:, 0, 0, 0].tolist() == [0, 10, 0, 10]


def test_train_and_val_folders_are_used_as_they_are(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", images=3)
    image_folder(tmp_path / "val", images=2)
    assert len(load_split(tmp_path, Part.TRAIN, CIFAR_PREPROCESSING).images) == 6
    assert len(load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING).images) == 4


def test_unreadable_images_are_listed_and_left_out(tmp_path: Path) -> None:
    image_folder(tmp_path)
    (tmp_path / "dog" / "00.png").write_bytes(b"no image")
    whole = (tmp_path / "cat" / "05.png").read_bytes()
    (tmp_path / "cat" / "05.png").write_bytes(whole[: len(whole) // 2])
    train, test = (load_split(tmp_path, part, CIFAR_PREPROCESSING) for part in PARTS)
    assert (len(train.images), len(test.images)) == (35, 3)
    assert [line.partition(": ")[0] for line in train.unreadable] == [str(tmp_path / "cat" / "05.png")]
    assert [line.partition(": ")[0] for line in test.unreadable] == [str(tmp_path / "dog" / "00.png")]
    _, labels = train.images.__getitems__(range(35))
    assert labels.bincount().tolist() == [17, 18]


def test_an_image_that_goes_away_later_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path)
    split = load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)
    (tmp_path / "dog" / "00.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/00\.png"):
        split.images.__getitems__(range(4))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_class_without_enough_images_is_an_early_error(tmp_path: Path, count: int) -> None:
    """Two files leave one to train on: the first is held out."""
    image_folder(tmp_path)
    image_folder(tmp_path, classes=("owl",), images=count)
    with pytest.raises(DataError, match=f"1 of 3 classes have too few .* train part: owl has {max(count - 1, 0)}"):
        load_split(tmp_path, Part.TRAIN, CIFAR_PREPROCESSING)


def test_a_class_of_unreadable_images_is_empty_and_says_why(tmp_path: Path) -> None:
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "val")
    for path in (tmp_path / "val" / "cat").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"test part: cat has 0;(.|\n)*20 could not be decoded(.|\n)*cat/00\.png: "):
        load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)


def test_classes_that_training_does_not_know_are_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "val", classes=("cat", "dog", "owl"))
    with pytest.raises(DataError, match="lacks: owl"):
        load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)


def test_the_whole_of_a_folder_is_every_image(tmp_path: Path) -> None:
    image_folder(tmp_path / "photos")
    assert len(load_split(tmp_path / "photos", Part.WHOLE, CIFAR_PREPROCESSING).images) == 40
    write_batches(tmp_path)
    with pytest.raises(DataError, match="a train and a test part"):
        load_split(tmp_path, Part.WHOLE, CIFAR_PREPROCESSING)


def test_devices_share_a_batch_and_leave_no_image_out() -> None:
    dataset = ArrayImages(np.zeros((48, 3, 4, 4), np.uint8), np.arange(48), classes=48)
    whole = [labels.tolist() for _, labels in shuffled_batches(dataset, 8, 0, 0)]
    shares = [[labels.tolist() for _, labels in shuffled_batches(dataset, 8, 0, 0, (i, 2))] for i in range(2)]
    assert all(len(batch) == 4 for share in shares for batch in share)
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


def test_damaged_or_impossible_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar10-test.npz"
    images, names = np.zeros((2, 3, 32, 32), np.uint8), np.array(["a", "b"])
    for spoiled in ({"labels": np.array([0, 2])}, {"labels": np.zeros(3, int)}, {"images": images.astype(np.float32)}):
        np.savez(path, **({"images": images, "labels": np.zeros(2, int), "class_names": names} | spoiled))
        with pytest.raises(DataError, match=r"cifar10-test\.npz"):
            load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cifar10-test\.npz"):
        load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)


def test_data_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_split(tmp_path / "absent", Part.TEST, CIFAR_PREPROCESSING)
    with pytest.raises(DataError, match="0 class folders"):
        load_split(tmp_path, Part.TEST, CIFAR_PREPROCESSING)


@pytest.mark.shared_data
def test_cifar10_has_a_thousand_test_images_of_each_class() -> None:
    split = load_split(SHARED_DATA / "cifar10", Part.TEST, CIFAR_PREPROCESSING)
    assert isinstance(split.images, ArrayImages)
    assert split.images.labels.bincount().tolist() == [1000] * 10
    assert split.class_names[3] == "cat"


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    dataset = ArrayImages(np.zeros((40, 3, 4, 4), np.uint8), np.arange(40), classes=40)

    def order(seed: int, epoch: int) -> list[int]:
        return [label for _, labels in shuffled_batches(dataset, 8, seed, epoch) for label in labels.tolist()]

    assert sorted(order(0, 0)) == list(range(40))
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_flip_and_crop_shifts_over_black_and_mirrors_half() -> None:
    images = torch.full((400, 3, 8, 8), 200, dtype=torch.uint8)
    images[:, :, :, 0] = 100  # mirrored, this column comes to the right
    out = flip_and_crop(images, 2, generator_for(0, 0))
    assert out.shape == images.shape
    assert set(out.unique().tolist()) == {0, 100, 200}
    centred = out[(out != 0).flatten(1).all(1)]  # neither shifted up nor down, left nor right
    mirrored = (centred[:, 0, 0, 0] == 200).float().mean()
    assert 0.2 < mirrored < 0.8
    assert torch.equal(out, flip_and_crop(images, 2, generator_for(0, 0)))
