"""`python -m export gpu-bench`: what each runtime takes on this GPU for both orderings, and what folding gains.

Every cell (network, runtime, precision, batch) is one interleaved run over its lanes and one file, written when it
ends: run again, the command goes on where it was cut off. What is missing is named, never counted as zero.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache as cache_calls
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.artifact import Precision
from export.bench import as_interval, verdict
from export.bench_lanes import Lane as Ordering
from export.bench_lanes import folded, give_statistics, images_for
from export.cuda import Cuda, UnavailableError, cuda_or_reason
from export.describe import installed
from export.engine_cache import EngineCache, default_folder
from export.gpu_lanes import (
    FLAVOURS,
    LAUNCHED_BY_HOST,
    OF_TORCH,
    Bench,
    GpuRuntime,
    Lane,
    Pixels,
    missing,
    precisions,
)
from export.quantize import MadeFor, calibrate, quantize
from export.results import Results, write_json
from export.rounds import at_least_fewest, interleaved
from export.to_engine import profile_for
from export.to_fp16 import to_fp16
from export.to_onnx import ServedGraph, to_onnx
from models.atomic_file import write_atomically
from models.paired import Interval, median_interval
from models.resnet import build
from models.spec import BlockOrdering, spec_for

BATCHES = (1, 8, 32, 128)
BOUND = 1.02  # that pre-activation, folded, may take of post-activation's time
ROTATED = 4  # sets of pixels that a lane is given in turn
TURN_MS = 20.0  # a lane runs at least this long in each round, and at least once
PACKAGES = ("tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "onnxruntime", "torch", "triton", "cuda-bindings", "numpy")


@dataclass(frozen=True, slots=True)
class Cell:
    depth: int
    runtime: GpuRuntime
    precision: Precision
    batch: int

    def __str__(self) -> str:
        return f"resnet{self.depth}-{self.runtime}-{self.precision}-batch{self.batch}"


EXIT_CODES = (
    "exit status: 0 where all that was measured holds, 2 for a wrong command, 3 without a GPU, 4 where something "
    "failed, 5 where a bound does not hold"
)
WRONG, NO_GPU, FAILED, DOES_NOT_HOLD = 2, 3, 4, 5


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    return run(options.depths, options.rounds, options.out, cuda_or_reason(), EngineCache(options.engine_cache))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m export gpu-bench", description=__doc__, epilog=EXIT_CODES)
    top.add_argument("--rounds", type=at_least_fewest, default=40, help="default: 40")
    top.add_argument("--depths", type=int, nargs="+", default=[50, 20], metavar="DEPTH", help="default: 50 20")
    top.add_argument("--out", type=Path, default=Path("build/gpu-check"), help="folder; what is in it is not run again")
    top.add_argument("--engine-cache", type=Path, default=default_folder(), metavar="FOLDER")
    return top


def run(depths: Sequence[int], rounds: int, out: Path, cuda: Cuda | UnavailableError, cache: EngineCache) -> int:
    """Returns a status of EXIT_CODES."""
    if not isinstance(cuda, UnavailableError) and (other := gpu_of(out)) not in (None, str(cuda)):
        print(f"error: {out} holds figures of {other}, here is {cuda}; give another --out", file=sys.stderr)
        return WRONG
    cells = cells_in(out, cuda, rounds)
    if (line := cells.begun_anew()) is not None:
        print(line, flush=True)
    absent = {runtime: reason for runtime in GpuRuntime if (reason := missing(runtime, cuda)) is not None}
    write_json(out / "machine.json", machine(cuda, absent, rounds))
    for runtime, reason in absent.items():
        print(f"missing: {runtime}: {reason}", flush=True)
    if isinstance(cuda, UnavailableError):
        return NO_GPU
    wanted = [
        Cell(depth, runtime, precision, batch)
        for runtime in GpuRuntime if runtime not in absent  # torch.compile, which takes minutes a cell, is the last
        for depth in depths
        for precision in precisions(runtime)
        for batch in BATCHES
    ]  # fmt: skip
    graphs_of = cache_calls(lambda depth: Graphs(depth, out / "graphs"))
    for cell in (cell for cell in wanted if not cells.has(str(cell))):
        bench = Bench(cuda, cell.batch, max(BATCHES), cache)
        try:
            measured = measure(cell, bench, graphs_of(cell.depth), rounds)
        except Exception as error:  # noqa: BLE001  the other cells go on; the table says so
            measured = {"failed": f"{type(error).__name__}: {error}"}
        cells.keep(str(cell), asdict(cell) | measured)
        print(as_text(asdict(cell) | measured), flush=True)
    return status_of(cells.all().values())


def status_of(found: Iterable[dict[str, Any]]) -> int:
    """Of EXIT_CODES: by what failed, or else by what does not hold."""
    found = list(found)
    if any("failed" in each for each in found):
        return FAILED
    return DOES_NOT_HOLD if any(each.get("verdict") == "does not hold" for each in found) else 0


def gpu_of(out: Path) -> str | None:
    """Whose figures a folder holds."""
    path = out / "machine.json"
    gpu: str | None = json.loads(path.read_text())["gpu"] if path.exists() else None
    return gpu


def cells_in(out: Path, cuda: Cuda | UnavailableError, rounds: int) -> Results:
    return Results(out / "cells", conditions(cuda) | {"rounds": rounds})


def conditions(cuda: Cuda | UnavailableError) -> dict[str, Any]:
    """Figures of others are none of these."""
    return {
        "gpu": None if isinstance(cuda, UnavailableError) else str(cuda),
        "packages": installed(PACKAGES),
        "cuda_of_torch": torch.version.cuda,
    }


class Graphs:
    """A depth's graphs for engines, made once and kept in a folder; random weights take the time that any take."""

    def __init__(self, depth: int, folder: Path) -> None:
        self.depth, self.folder = depth, folder
        self.served = {ordering: self.network(ordering) for ordering in BlockOrdering}

    def network(self, ordering: BlockOrdering) -> ServedGraph:
        spec = spec_for(f"resnet{self.depth}-{ordering}")
        self.crop, images = spec.preprocessing.crop, images_for(spec.preprocessing)
        network = build(spec, seed=0)
        give_statistics(network, images, spec.preprocessing)
        return ServedGraph(network.eval(), spec.preprocessing)

    def path(self, ordering: Ordering, precision: Precision) -> Path:
        path = self.folder / f"resnet{self.depth}-{ordering.replace(' ', '-')}-{precision}.onnx"
        if not path.exists():
            print(f"making {path.name}", file=sys.stderr, flush=True)
            write_atomically(path, self.made(ordering, precision).SerializeToString())
        return path

    def made(self, ordering: Ordering, precision: Precision) -> onnx.ModelProto:
        """torch exports each ordering once, which takes a minute for a deep one; the rest is made of that."""
        exported, kind = Ordering.PRE, BlockOrdering.PRE_ACTIVATION
        if ordering is Ordering.POST:
            exported, kind = Ordering.POST, BlockOrdering.POST_ACTIVATION
        graph = self.served[kind]
        if (ordering, precision) == (exported, Precision.FP32):
            return to_onnx(graph)
        model = onnx.load(self.path(exported, Precision.FP32))
        if ordering is Ordering.PRE_FOLDED:
            model, _ = folded(model, precision)
        if precision is Precision.FP16:
            return to_fp16(model)
        if precision is Precision.INT8:
            return quantize(model, calibrate(model, [images_for(graph.preprocessing)]), MadeFor.TENSORRT)
        return model

    def pixels(self, batch: int) -> list[Pixels]:
        generator = np.random.default_rng(0)
        shape = (batch, self.crop, self.crop, 3)
        return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(ROTATED)]


def lanes(cell: Cell, bench: Bench, graphs: Graphs, stack: ExitStack) -> dict[Ordering, Lane]:
    """Post-activation twice: what differs between the two is what this machine cannot tell from nothing."""
    found: dict[Ordering, Lane] = {}
    for ordering in Ordering:
        first = Ordering.POST if ordering is Ordering.POST_AGAIN else ordering
        if cell.runtime not in OF_TORCH:
            lane = bench.graph_lane(cell.runtime, graphs.path(first, cell.precision), cell.precision)
        elif ordering is Ordering.PRE_FOLDED:
            continue  # our fold is of graphs
        else:
            kind = BlockOrdering.POST_ACTIVATION if first is Ordering.POST else BlockOrdering.PRE_ACTIVATION
            lane = bench.torch_lane(cell.runtime, graphs.served[kind], cell.precision)
        found[ordering] = stack.enter_context(lane)
    return found


def measure(cell: Cell, bench: Bench, graphs: Graphs, rounds: int) -> dict[str, Any]:
    """Milliseconds of each lane, one number a round, and their ratios to post-activation."""
    pixels = graphs.pixels(cell.batch)
    bench.cuda.use()
    with ExitStack() as stack:
        opened = lanes(cell, bench, graphs, stack)
        begun, ended = bench.cuda.event(), bench.cuda.event()
        for event in (begun, ended):
            stack.callback(bench.cuda.call, "cudaEventDestroy", event)

        def milliseconds(lane: Lane, images: Iterator[Pixels]) -> float:
            lane.fill(next(images))
            bench.cuda.record(begun, lane.stream)
            lane.launch()
            bench.cuda.record(ended, lane.stream)
            return bench.cuda.elapsed_ms(begun, ended)

        once = {ordering: partial(milliseconds, lane, itertools.cycle(pixels)) for ordering, lane in opened.items()}
        found = interleaved(once, rounds, TURN_MS, str(cell))
        answers = {}
        for ordering, lane in opened.items():
            milliseconds(lane, iter(pixels[:1]))
            answers[ordering] = lane.logits()
        return summary(cell, found, answers)


def summary(
    cell: Cell, arrays: Mapping[Ordering, NDArray[np.float64]], answers: Mapping[Ordering, NDArray[np.float32]]
) -> dict[str, Any]:
    """`answers` are each lane's logits of the same images; what folding changes of them is a share of the largest."""
    ratios = {
        ordering: median_interval(each / arrays[Ordering.POST])
        for ordering, each in arrays.items() if ordering is not Ordering.POST
    }  # fmt: skip
    optimum = profile_for(max(BATCHES)).optimum if cell.runtime in FLAVOURS else None
    result: dict[str, Any] = {
        "kernels_chosen_for_batch": optimum,
        "ms": {ordering: float(np.median(each)) for ordering, each in arrays.items()},
        "images_per_s": {ordering: 1e3 * cell.batch / float(np.median(each)) for ordering, each in arrays.items()},
        "over_post": {ordering: asdict(ratio) for ordering, ratio in ratios.items()},
        "rounds": len(arrays[Ordering.POST]),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }
    if Ordering.PRE_FOLDED in ratios:
        before, after = answers[Ordering.PRE], answers[Ordering.PRE_FOLDED]
        difference = float(np.abs(after - before).max() / np.abs(before).max())
        result |= {"bound": BOUND, "verdict": verdict(ratios[Ordering.PRE_FOLDED], BOUND), "difference": difference}
    return result


def as_text(cell: dict[str, Any]) -> str:
    name = f"ResNet-{cell['depth']:<4} {cell['runtime']:<17} {cell['precision']:<5} batch {cell['batch']:>3}"
    optimum = cell.get("kernels_chosen_for_batch")
    name += f", kernels chosen for {optimum}" if optimum not in (None, cell["batch"]) else ""
    launched = LAUNCHED_BY_HOST.get(cell["runtime"])
    name += f", the host launches {launched}" if launched is not None else ""
    if "failed" in cell:
        return f"{name}  failed: {cell['failed']}"
    ratios = "  ".join(f"{ordering} {as_interval(Interval(**each))}" for ordering, each in cell["over_post"].items())
    return f"{name}  post {cell['ms'][Ordering.POST]:8.3f} ms  over post: {ratios}  {cell.get('verdict', '')}"


def machine(cuda: Cuda | UnavailableError, absent: dict[GpuRuntime, str], rounds: int) -> dict[str, Any]:
    launches = "; ".join(f"{what} ({runtime})" for runtime, what in LAUNCHED_BY_HOST.items())
    return {
        **conditions(cuda),
        "missing": absent,
        "rounds": rounds,
        "timed": "upload from page-locked memory, inference and download on one stream, by CUDA events; "
        f"the host launches {launches}, which counts where the GPU waits",
        "weights": "random, with statistics of photographs",
    }
