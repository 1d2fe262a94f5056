"""What ONNX Runtime is told before it may run a graph on a GPU, over a double of its session; memory given back."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import psutil
import pytest

from export import graph_session
from export.artifact import Precision
from export.cuda import UnavailableError
from export.graph_session import CUDA_PROVIDER, give_back, on_cuda

GRAPH = Path("model.onnx")


class Session:
    """onnxruntime.InferenceSession, which runs with the first of `used`."""

    used = (CUDA_PROVIDER,)

    def __init__(self, path: Path, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.options, ((self.provider, self.settings),) = options, providers
        self.falls_back = True

    def disable_fallback(self) -> None:
        self.falls_back = False

    def get_providers(self) -> list[str]:
        return list(self.used)


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_session, "preload", lambda: None)
    monkeypatch.setattr(graph_session.onnxruntime, "InferenceSession", Session)


@pytest.mark.parametrize(("precision", "tf32"), [(Precision.FP32, "0"), (Precision.FP16, "1")])
def test_nothing_may_run_elsewhere_and_fp32_is_fp32(precision: Precision, tf32: str) -> None:
    opened = on_cuda(GRAPH, precision, 42)
    assert opened.provider == CUDA_PROVIDER
    assert opened.settings["use_tf32"] == tf32
    assert opened.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert not opened.falls_back


def test_it_is_captured_on_the_callers_stream() -> None:
    settings = on_cuda(GRAPH, Precision.FP32, 42).settings
    assert (settings["user_compute_stream"], settings["enable_cuda_graph"]) == ("42", "1")


@pytest.mark.parametrize(("precision", "preferred"), [(Precision.FP32, "0"), (Precision.FP16, "1")])
def test_half_precision_has_its_channels_last(precision: Precision, preferred: str) -> None:
    assert on_cuda(GRAPH, precision, 42).settings["prefer_nhwc"] == preferred


def test_a_session_on_another_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "used", ("CPUExecutionProvider", CUDA_PROVIDER))
    with pytest.raises(UnavailableError, match=r"model\.onnx: ONNX Runtime would run it with CPUExecutionProvider"):
        on_cuda(GRAPH, Precision.FP32, 42)


def test_memory_that_is_free_but_held_goes_back_to_the_system() -> None:
    """Blocks below one that is still needed, as what a graph took while it was opened lies below its session."""
    number, size = 1_000, 64 << 10  # glibc maps larger ones, and unmaps them, by themselves
    library, process = ctypes.CDLL(None), psutil.Process()
    library.malloc.restype, library.malloc.argtypes, library.free.argtypes = (
        ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p],
    )  # fmt: skip
    blocks = [library.malloc(size) for _ in range(number)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        library.free(block)
    held = process.memory_info().rss
    give_back()
    assert held - process.memory_info().rss > number * size * 0.9
    library.free(blocks[-1])
