"""The benchmark for GPUs: its cells, resumed and failing, over the host-memory double. No time here is a GPU's."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export import gpu_bench, gpu_lanes
from export.__main__ import main
from export.artifact import Precision
from export.cuda import Cuda, UnavailableError
from export.engine_cache import EngineCache
from export.gpu_bench import Cell, Graphs, Ordering, as_text, cells_in, run, status_of, summary
from export.gpu_lanes import OF_TORCH, Bench, GpuRuntime, Lane, lowered, missing, precisions
from export.images import random_pixels
from export.rounds import interleaved
from export.to_onnx import ServedGraph, to_onnx
from export.verify import open_graph
from models.spec import Shortcut
from tests.export.test_graph import served
from tests.host_gpu.engines import HostTensorRt
from tests.host_gpu.runtime import HostCudart
from tests.host_gpu.sessions import HostSession


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    """Of the networks that all tests here build."""
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def cudart() -> HostCudart:
    return HostCudart()


def cells_of(out: Path, cudart: HostCudart, rounds: int = 6) -> list[dict[str, Any]]:
    return list(cells_in(out, Cuda(cudart), rounds).all().values())


@pytest.fixture
def host_rtx(cudart: HostCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX builds as ever, and what it builds is run in host memory; the other runtimes are missing."""

    def engine_of(self: gpu_lanes.Bench, stack: Any, flavour: Any, graph: Path) -> Any:
        monkeypatch.setattr(gpu_lanes, "load", lambda _: HostTensorRt(graph, cudart))
        return real(self, stack, flavour, graph)

    real = gpu_lanes.Bench.engine
    monkeypatch.setattr(gpu_lanes.Bench, "engine", engine_of)
    monkeypatch.setattr(gpu_bench, "BATCHES", (1, 3))
    monkeypatch.setattr(gpu_bench, "TURN_MS", 0.1)
    absent = {runtime: f"no {runtime} here" for runtime in GpuRuntime if runtime is not GpuRuntime.TENSORRT_RTX}
    monkeypatch.setattr(gpu_bench, "missing", lambda runtime, cuda: absent.get(runtime))


def test_cells_are_written_as_they_come_and_not_run_again(
    cudart: HostCudart, host_rtx: None, tmp_path: Path, engines: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([8], 6, tmp_path, Cuda(cudart), engines) == 0
    cells = cells_of(tmp_path, cudart)
    assert {(cell["precision"], cell["batch"]) for cell in cells} == {(p, b) for p in Precision for b in (1, 3)}
    for cell in cells:
        assert "failed" not in cell, cell
        assert set(cell["ms"]) == {"post", "pre", "pre folded", "post again"}
        assert set(cell["ms"].values()) == {3.0}  # upload, inference, download, by the double's clock
        assert cell["difference"] < (1e-4 if cell["precision"] == "fp32" else 1.0)
        assert cell["kernels_chosen_for_batch"] == 3
        assert cell["verdict"] == "holds"
    said = capsys.readouterr().out
    assert "missing: torch.compile: no torch.compile here" in said
    assert said.count("ResNet-8") == 6
    assert json.loads((tmp_path / "machine.json").read_text())["missing"]["tensorrt"] == "no tensorrt here"
    assert not cudart.leaks

    killed = tmp_path / "cells" / f"{Cell(8, GpuRuntime.TENSORRT_RTX, Precision.FP16, 3)}.json"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    killed.unlink()
    assert run([8], 6, tmp_path, Cuda(cudart), engines) == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert [path for path in after if after[path] != before[path]] == [killed]


def test_a_cell_that_fails_is_named_and_the_others_go_on(
    cudart: HostCudart, host_rtx: None, tmp_path: Path, engines: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise UnavailableError("no kernel for this")

    with monkeypatch.context() as broken:
        broken.setattr(gpu_bench, "to_fp16", fails)
        assert run([8], 6, tmp_path, Cuda(cudart), engines) == 4
    failed = {cell["precision"] for cell in cells_of(tmp_path, cudart) if "failed" in cell}
    assert failed == {"fp16"}
    assert "failed: UnavailableError: no kernel" in as_text(
        next(cell for cell in cells_of(tmp_path, cudart) if "failed" in cell)
    )
    assert not cudart.leaks
    run([8], 6, tmp_path, Cuda(cudart), engines)  # what failed is tried again
    assert not [cell for cell in cells_of(tmp_path, cudart) if "failed" in cell]


def test_figures_of_another_gpu_are_not_mixed_in_and_those_of_other_conditions_are_taken_anew(
    cudart: HostCudart, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_bench, "missing", lambda runtime, cuda: "not here")
    cache = EngineCache(tmp_path / "engines")
    cells = cells_in(tmp_path, Cuda(cudart), 6)
    cells.keep("x", {"ms": 1})
    cells.keep("y", {"failed": "RuntimeError"})
    assert (cells.has("x"), cells.has("y"), cells.has("z")) == (True, False, False)
    assert run([8], 6, tmp_path, Cuda(cudart), cache) == 4
    assert "begun anew" not in capsys.readouterr().out
    assert run([8], 7, tmp_path, Cuda(cudart), cache) == 0
    assert "x.json and others are of other conditions (rounds: 6, now 7)" in capsys.readouterr().out
    assert not cells_of(tmp_path, cudart, rounds=7)
    assert run([8], 7, tmp_path, Cuda(HostCudart("9.0")), cache) == 2
    said = capsys.readouterr().err
    assert "holds figures of Host GPU, compute capability 8.9, here is Host GPU, compute capability 9.0" in said


def test_ratios_are_over_post_activation_and_the_bound_is_on_what_was_folded() -> None:
    cell = Cell(50, GpuRuntime.TENSORRT, Precision.FP16, 128)
    ms = {Ordering.POST: 2.0, Ordering.PRE: 3.0, Ordering.PRE_FOLDED: 2.02, Ordering.POST_AGAIN: 2.0}
    arrays = {ordering: np.full(6, each) for ordering, each in ms.items()}
    answers = {ordering: np.array([[1.0, 2.0]], np.float32) for ordering in ms}
    found = summary(cell, arrays, answers)
    assert {ordering: each["estimate"] for ordering, each in found["over_post"].items()} == pytest.approx(
        {"pre": 1.5, "pre folded": 1.01, "post again": 1.0}
    )
    assert (found["verdict"], found["images_per_s"]["post"]) == ("holds", 64_000)
    assert found["kernels_chosen_for_batch"] == 8
    slow = summary(cell, arrays | {Ordering.PRE_FOLDED: np.full(6, 2.06)}, answers)
    assert slow["verdict"] == "does not hold"


def test_lanes_take_turns_and_each_comes_first_in_its_round() -> None:
    seen: list[str] = []

    def lane(name: str) -> float:
        seen.append(name)
        return 1.0

    found = interleaved({name: partial(lane, name) for name in "abc"}, 3, 2.0, "x")
    warm_up, timed = "aaabbbccc", "aabbcc" + "bbccaa" + "ccaabb"
    assert "".join(seen) == warm_up + timed
    assert {name: list(each) for name, each in found.items()} == dict.fromkeys("abc", [1.0] * 3)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServedGraph, Path]:
    network, path = served("resnet8-preact", Shortcut.OPTION_A), tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(to_onnx(network), path)
    return network, path


def answer_of(lane: Lane, cudart: HostCudart, pixels: np.ndarray) -> np.ndarray:
    lane.fill(pixels)
    lane.launch()
    cudart.cudaDeviceSynchronize()
    return lane.logits()


def test_an_engines_lane_launches_the_graph_of_its_batch(
    cudart: HostCudart, graph: tuple[ServedGraph, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, path = graph
    tensorrt = HostTensorRt(path, cudart)
    monkeypatch.setattr(gpu_lanes, "load", lambda _: tensorrt)
    pixels = random_pixels(network.preprocessing, 2)
    bench = Bench(Cuda(cudart), batch=2, largest_batch=4, cache=EngineCache(tmp_path))
    with bench.graph_lane(GpuRuntime.TENSORRT_RTX, path, Precision.FP32) as lane:
        tensorrt.engine.batches.clear()
        np.testing.assert_allclose(answer_of(lane, cudart, pixels), open_graph(path)(pixels), rtol=1e-4, atol=1e-4)
        assert (tensorrt.engine.batches, cudart.launches) == ([2], 1)
    assert not cudart.leaks


def test_onnxruntimes_lane_works_on_memory_and_a_stream_of_ours(
    cudart: HostCudart, graph: tuple[ServedGraph, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, path = graph
    monkeypatch.setattr(gpu_lanes, "on_cuda", lambda graph, _, stream: HostSession(graph, cudart, stream))
    pixels = random_pixels(network.preprocessing, 3)
    bench = Bench(Cuda(cudart), 3, 4, EngineCache(tmp_path))
    with bench.graph_lane(GpuRuntime.ONNXRUNTIME, path, Precision.FP32) as lane:
        np.testing.assert_allclose(answer_of(lane, cudart, pixels), open_graph(path)(pixels), rtol=1e-4, atol=1e-4)
    assert not cudart.leaks


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("runtime", sorted(OF_TORCH))
def test_torchs_lane_answers_as_the_network(
    runtime: GpuRuntime,
    precision: Precision,
    cudart: HostCudart,
    graph: tuple[ServedGraph, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the CPU, eagerly; that max-autotune was asked for is all that can be said of it here."""
    network, _ = graph
    compiled: list[str] = []
    real_empty = torch.empty

    def pageable(*shape: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        return real_empty(*shape, **more)

    stream = SimpleNamespace(synchronize=lambda: None, cuda_stream=0)
    for name, double in {
        "cuda.Stream": lambda: stream,
        "cuda.stream": lambda given: nullcontext() if given is stream else pytest.fail("another stream"),
        "compile": lambda network, mode: compiled.append(mode) or network,
        "empty": pageable,
        "backends.cudnn.benchmark": False,
        "backends.cudnn.allow_tf32": precision is Precision.FP32,  # to be changed
        "backends.cuda": SimpleNamespace(matmul=SimpleNamespace(allow_tf32=None)),
    }.items():
        monkeypatch.setattr(f"torch.{name}", double)
    monkeypatch.setattr(gpu_lanes, "DEVICE", "cpu")
    pixels = random_pixels(network.preprocessing, 2)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    with Bench(Cuda(cudart), 2, 4, EngineCache(tmp_path)).torch_lane(runtime, network, precision) as lane:
        found = answer_of(lane, cudart, pixels)
        assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is (precision == "fp16")
    share = 1e-4 if precision is Precision.FP32 else 3e-2
    assert np.abs(found - expected).max() <= share * np.abs(expected).max()
    assert compiled == (["max-autotune"] if runtime is GpuRuntime.COMPILED else [])


def test_too_few_rounds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["gpu-bench", "--rounds", "-3", "--out", str(tmp_path)])
    assert "-3 rounds have no interval; 6 do" in capsys.readouterr().err


def test_what_failed_or_does_not_hold_is_the_exit_status() -> None:
    holds, fails, misses = {"verdict": "holds"}, {"failed": "x"}, {"verdict": "does not hold"}
    assert [status_of(each) for each in ([holds, {}], [holds, misses], [misses, fails])] == [0, 5, 4]


def test_the_table_tells_what_a_time_is_of() -> None:
    cell = {"depth": 50, "precision": "fp16", "failed": "x"}
    assert "batch 128, kernels chosen for 8  " in as_text(
        cell | {"runtime": "tensorrt", "batch": 128, "kernels_chosen_for_batch": 8}
    )
    assert "batch   8, the host launches each kernel  " in as_text(cell | {"runtime": "torch", "batch": 8})


@pytest.mark.no_gpu
def test_without_a_gpu_everything_is_missing_and_nothing_is_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpu-bench", "--out", str(tmp_path)]) == 3
    assert capsys.readouterr().out.count("missing: ") == len(GpuRuntime)
    assert not (tmp_path / "cells").exists()
    assert json.loads((tmp_path / "machine.json").read_text())["gpu"] is None


def test_torch_alone_lacks_int8(cudart: HostCudart) -> None:
    assert precisions(GpuRuntime.TENSORRT) == tuple(Precision)
    assert Precision.INT8 not in precisions(GpuRuntime.COMPILED)
    if not torch.cuda.is_available():
        assert "finds no CUDA device" in str(missing(GpuRuntime.TORCH, Cuda(cudart)))


@pytest.mark.parametrize("variant", ["resnet8-postact", "resnet8-preact"])
@pytest.mark.parametrize("fold", [True, False])
def test_what_torch_times_computes_what_the_network_computes(variant: str, fold: bool) -> None:
    graph = served(variant, Shortcut.OPTION_A)
    pixels = torch.from_numpy(random_pixels(graph.preprocessing, 3))
    with torch.inference_mode():
        found, expected = lowered(graph, Precision.FP32, fold=fold)(pixels), graph(pixels)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert lowered(graph, Precision.FP16, fold=fold)(pixels).dtype is torch.float32


def test_graphs_are_made_once(tmp_path: Path) -> None:
    from export.bench_lanes import Lane

    graphs = Graphs(8, tmp_path)
    path = graphs.path(Lane.PRE_FOLDED, Precision.INT8)
    made = path.stat().st_mtime_ns
    assert Graphs(8, tmp_path).path(Lane.PRE_FOLDED, Precision.INT8).stat().st_mtime_ns == made
    first, *rest = graphs.pixels(2)
    assert first.shape == (2, 32, 32, 3)
    assert len(rest) == 3
