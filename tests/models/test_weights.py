"""A checkpoint is read whole and for its own network, or refused with a reason."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.atomic_file import write_atomically
from models.card import card
from models.resnet import build
from models.spec import spec_for
from models.weights import CheckpointError, Description, read_checkpoint, write_checkpoint, zoo_path
from tests.conftest import PAIR

SPEC = spec_for("resnet8-preact")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    write_checkpoint(path, build(SPEC, seed=0), Description(SPEC, tuple("abcdefghij"), {}))
    return path


def test_what_was_written_is_read(checkpoint: Path) -> None:
    read = read_checkpoint(checkpoint)
    assert read.description == Description(SPEC, tuple("abcdefghij"), {})
    expected = build(SPEC, seed=0).state_dict()
    found = read.network().state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_weights_of_another_network_are_refused_by_name(checkpoint: Path) -> None:
    read = read_checkpoint(checkpoint)
    with pytest.raises(
        CheckpointError, match=r"(?s)missing: bn1.bias.*surplus: norm.bias.*misshapen: layer.*other block ord"
    ):
        replace(read, description=replace(read.description, spec=spec_for("resnet8-postact"))).network()


def test_a_truncated_file_is_refused(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(checkpoint)


def test_a_file_without_a_description_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="not one of ours"):
        read_checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="absent"):
        read_checkpoint(tmp_path / "absent.safetensors")


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("variant", PAIR)
def test_the_shipped_weights_fit_their_network_and_their_card(variant: str) -> None:
    path = zoo_path(variant)
    checkpoint = read_checkpoint(path)
    assert checkpoint.description.spec == spec_for(variant)
    assert checkpoint.network()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert path.with_suffix(".md").read_text() == card(checkpoint, path)
    assert path.stat().st_size < 1.3e6
    epochs = path.with_suffix(".log.jsonl").read_text().splitlines()
    assert len(epochs) == checkpoint.description.training["recipe"]["epochs"]
