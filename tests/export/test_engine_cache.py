"""Engines are found again by what made them, and only where nobody else can have written them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.artifact import Runtime
from export.engine_cache import EngineCache, default_folder, known
from tests.export.test_engine_session import described


def test_a_cache_that_others_can_write_to_is_not_read(tmp_path: Path) -> None:
    cache, engine = EngineCache(tmp_path / "engines"), described()
    cache.keep(engine, b"an engine")
    assert cache.find(engine) == b"an engine"
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    cache.folder.chmod(0o777)
    assert cache.find(engine) is None
    assert known(cache.timing(engine)) == b""


def test_an_engine_that_cannot_be_read_is_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, engine = EngineCache(tmp_path / "engines"), described()
    cache.keep(engine, b"an engine")
    (kept,) = cache.folder.iterdir()
    kept.unlink()
    kept.mkdir()  # whoever is root reads any file
    assert cache.find(engine) is None
    assert f"{kept} is not used" in caplog.text


def test_a_damaged_engine_is_not_found(tmp_path: Path) -> None:
    cache, engine = EngineCache(tmp_path / "engines"), described()
    cache.keep(engine, b"an engine")
    (kept,) = cache.folder.iterdir()
    kept.write_bytes(b"another")
    assert cache.find(engine) is None


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(homeless))
    assert default_folder().parts[-2:] == ("preflight", "engines")


def test_kernels_that_were_timed_on_another_model_of_gpu_are_not_found_again(tmp_path: Path) -> None:
    cache, engine = EngineCache(tmp_path), described(Runtime.TENSORRT, gpu="NVIDIA L4")
    cache.keep(engine, b"an engine")
    other = engine.model_copy(update={"gpu": "NVIDIA GeForce RTX 4090"})
    assert cache.find(engine) == b"an engine"
    assert cache.find(other) is None
    assert cache.timing(other).name == f"tensorrt-{engine.version}-NVIDIA-GeForce-RTX-4090-8-9.timing"
    assert cache.timing(engine) != cache.timing(other)
