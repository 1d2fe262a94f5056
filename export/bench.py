"""`python -m export bench`: what folding gains, measured on this machine in one interleaved run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from export.folding.fold import fold
from export.to_onnx import INPUT, ServedGraph, to_onnx
from models.atomic_file import write_atomically
from models.paired import Interval, median_interval
from models.resnet import build
from models.spec import BlockOrdering, spec_for

POST, POST_AGAIN, PRE, PRE_FOLDED = "post", "post again", "pre", "pre folded"
LANES = (POST, PRE, PRE_FOLDED, POST_AGAIN)
BOUND = 1.03  # that pre-activation, folded, shall cost over post-activation
TURN_S = 0.05  # a lane runs at least this long in each round, and at least once
WARM_UP = 3  # runs of each lane that are not timed


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table: a depth, and how it is run."""

    depth: int
    batch: int
    threads: int

    def __str__(self) -> str:
        crop = spec_for(f"resnet{self.depth}-postact").preprocessing.crop
        return f"ResNet-{self.depth}, {crop} px, batch {self.batch}, {self.threads} thread{'s'[: self.threads - 1]}"


CELLS = tuple(
    Cell(depth, batch, threads)
    for depth, large in ((50, 8), (110, 32), (20, 32))
    for batch, threads in ((1, 1), (large, 2))
)


@dataclass(frozen=True)
class Row:
    """Seconds of each run, by lane: the median of each round."""

    cell: Cell
    seconds: dict[str, list[float]]

    def ratio(self, lane: str) -> Interval:
        """The lane's time over that of post-activation, round by round."""
        return median_interval(np.array(self.seconds[lane]) / np.array(self.seconds[POST]))


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    rows = []
    graphs: dict[int, dict[str, bytes]] = {}
    for cell in CELLS:
        if cell.depth in options.depths:
            if cell.depth not in graphs:
                print(f"exporting ResNet-{cell.depth}", file=sys.stderr, flush=True)
                graphs = {cell.depth: lanes(cell.depth)}
            rows.append(measure(cell, graphs[cell.depth], options.rounds))
            print(as_text(rows[-1:], head=len(rows) == 1), flush=True)
    write_atomically(options.out, (json.dumps(summary(rows, options.rounds), indent=2) + "\n").encode())
    print(f"{options.rounds} rounds, medians; {conditions()}\n{options.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m export bench", description=__doc__)
    top.add_argument("--rounds", type=int, default=40, help="default: 40")
    top.add_argument("--depths", type=int, nargs="+", default=[50, 110, 20], metavar="DEPTH", help="default: 50 110 20")
    top.add_argument("--out", type=Path, default=Path("build/bench/folding.json"))
    return top


def lanes(depth: int) -> dict[str, bytes]:
    """The graphs to compare. Weights are random: dense arithmetic takes the same time on any ordinary numbers."""
    exported = {}
    for ordering in BlockOrdering:
        spec = spec_for(f"resnet{depth}-{ordering}")
        network = build(spec, seed=0).eval()
        give_statistics(network)
        exported[ordering] = to_onnx(ServedGraph(network, spec.preprocessing))
    post, pre = (exported[ordering].SerializeToString() for ordering in BlockOrdering)
    folded = ir.from_proto(exported[BlockOrdering.PRE_ACTIVATION])
    report = fold(folded)
    assert not report.left, report
    return {POST: post, PRE: pre, PRE_FOLDED: ir.to_proto(folded).SerializeToString(), POST_AGAIN: post}


def give_statistics(network: nn.Module) -> None:
    """Positive gammas, as trained networks mostly have, and no two alike: the exporter would join equal ones."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.weight.data.uniform_(0.3, 0.7, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)


def measure(cell: Cell, graphs: dict[str, bytes], rounds: int) -> Row:
    """Every lane in each round, one after the other; the order turns by one from round to round."""
    sessions = {lane: session(graphs[lane], cell.threads) for lane in LANES}
    crop = spec_for(f"resnet{cell.depth}-postact").preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (cell.batch, crop, crop, 3), dtype=np.uint8)
    for each in sessions.values():
        for _ in range(WARM_UP):
            each.run(None, {INPUT: pixels})
    seconds: dict[str, list[float]] = {lane: [] for lane in LANES}
    for number in tqdm(range(rounds), desc=str(cell), unit="round", leave=False):
        for place in range(len(LANES)):
            lane = LANES[(number + place) % len(LANES)]
            seconds[lane].append(turn(sessions[lane], pixels))
    return Row(cell, seconds)


def turn(model: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> float:
    """Median seconds of a run."""
    found: list[float] = []
    while sum(found) < TURN_S:
        begun = time.perf_counter()
        model.run(None, {INPUT: pixels})
        found.append(time.perf_counter() - begun)
    return float(np.median(found))


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def verdict(ratio: Interval, bound: float) -> str:
    """Judged on the interval: one that straddles the bound is undecided."""
    if ratio.high <= bound:
        return "holds"
    return "does not hold" if ratio.low > bound else "undecided"


def as_text(rows: Sequence[Row], *, head: bool) -> str:
    lines = (
        [f"{'':38}{'post, ms':>10}{'pre / post':>22}{'pre folded / post':>22}{'A/A':>22}  <= {BOUND}"] if head else []
    )
    for row in rows:
        cells = [f"{row.cell!s:38}{np.median(row.seconds[POST]) * 1e3:>10.2f}"]
        cells += [f"{as_interval(row.ratio(lane)):>22}" for lane in (PRE, PRE_FOLDED, POST_AGAIN)]
        lines.append("".join(cells) + f"  {verdict(row.ratio(PRE_FOLDED), BOUND)}")
    return "\n".join(lines)


def as_interval(ratio: Interval) -> str:
    return f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def summary(rows: Sequence[Row], rounds: int) -> dict[str, Any]:
    return {
        "conditions": {
            "rounds": rounds,
            "turn_s": TURN_S,
            "machine": conditions(),
            "packages": {name: version(name) for name in ("onnxruntime", "torch", "onnx", "numpy")},
            "weights": "random",
            "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        },
        "rows": [
            {
                **asdict(row.cell),
                "precision": "fp32",
                "post_ms": 1e3 * float(np.median(row.seconds[POST])),
                "ratios": {lane: asdict(row.ratio(lane)) for lane in (PRE, PRE_FOLDED, POST_AGAIN)},
                "bound": BOUND,
                "verdict": verdict(row.ratio(PRE_FOLDED), BOUND),
            }
            for row in rows
        ],
    }


def conditions() -> str:
    return f"ONNX Runtime {onnxruntime.__version__} on {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The name that the kernel gives, where there is a Linux kernel to ask."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
