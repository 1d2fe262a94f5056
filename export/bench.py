"""`python -m export bench`: what folding gains in float32 and int8, measured here in one interleaved run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.artifact import Precision
from export.bench_lanes import Lane, LaneError, Runtime, graphs_of, open_lane, runtimes
from export.quantize import MadeFor
from export.rounds import at_least_fewest, interleaved, seconds_of
from models.atomic_file import write_atomically
from models.paired import Interval, median_interval
from models.spec import spec_for

PRECISIONS = (Precision.FP32, Precision.INT8)
BOUNDS = {Precision.FP32: 1.03, Precision.INT8: 1.06}  # that pre-activation, folded, may cost over post-activation
INT8_BOUND = 1 / 3  # of fp32's time, for ResNet-50 at batch 1
INT8_BOUND_FOR = (50, 1)
LARGE_BATCH = {50: 8, 110: 32, 20: 32, 1001: 8}  # by depth, on 2 threads
TURN_S = 0.05  # a lane runs at least this long in each round, and at least once
Key = tuple[Precision, Lane]


@dataclass(frozen=True, slots=True)
class Cell:
    """How a depth is run."""

    depth: int
    batch: int
    threads: int
    runtime: Runtime

    def __str__(self) -> str:
        return (
            f"ResNet-{self.depth}, {self.crop} px, batch {self.batch}, {self.threads} thread{'s'[: self.threads - 1]}, "
            f"{self.runtime}"
        )

    @property
    def crop(self) -> int:
        return spec_for(f"resnet{self.depth}-postact").preprocessing.crop


@dataclass(frozen=True)
class Row:
    """The seconds that a run takes, by precision and lane: the median of each round."""

    cell: Cell
    seconds: Mapping[Key, NDArray[np.float64]]

    def ratio(self, of: Key, over: Key) -> Interval:
        """Round by round; the median and its 95 % interval."""
        return median_interval(self.seconds[of] / self.seconds[over])

    def ms(self, key: Key) -> float:
        return 1e3 * float(np.median(self.seconds[key]))


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    rows: list[Row] = []
    failures: dict[str, str] = {}
    folds: dict[str, dict[str, Any]] = {}
    for depth in options.depths:
        print(f"exporting ResNet-{depth}", file=sys.stderr, flush=True)
        graphs = graphs_of(depth)
        counts = {precision: f"{len(report.folded)} of {report.total}" for precision, report in graphs.folded.items()}
        folds[f"ResNet-{depth}"] = counts | {"difference": graphs.difference}
        counted = ", ".join(f"{count} in {precision}" for precision, count in counts.items())
        print(f"ResNet-{depth}: folded {counted}; logits differ by {graphs.difference:.1g} of the largest in fp32")
        for runtime in runtimes():
            made_for = MadeFor.ONNXRUNTIME if runtime is Runtime.ONNXRUNTIME else MadeFor.PORTABLE
            models = {
                (precision, lane): model
                for precision, form in ((Precision.FP32, MadeFor.PORTABLE), (Precision.INT8, made_for))
                for lane, model in graphs.models[precision, form].items()
            }
            for batch, threads in ((1, 1), (LARGE_BATCH[depth], 2)):
                cell = Cell(depth, batch, threads, runtime)
                try:
                    row = measure(cell, models, options.rounds)
                except LaneError as error:
                    print(f"{cell}\n  not measured: {error}", flush=True)
                    failures[str(cell)] = str(error)
                else:
                    print(as_text(row, head=not rows), flush=True)
                    rows.append(row)
                content = json.dumps(summary(rows, folds, failures, options.rounds), indent=2)
                write_atomically(options.out, f"{content}\n".encode())
    print(f"{options.rounds} rounds; medians over rounds with 95 % intervals; {machine()}\n{options.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m export bench", description=__doc__)
    top.add_argument("--rounds", type=at_least_fewest, default=40, help="default: 40")
    top.add_argument(
        "--depths", type=int, nargs="+", choices=LARGE_BATCH, default=[50, 110, 20], metavar="DEPTH",
        help=f"of {', '.join(map(str, LARGE_BATCH))} (default: 50 110 20)",
    )  # fmt: skip
    top.add_argument("--out", type=Path, default=Path("build/bench/folding.json"))
    return top


def measure(cell: Cell, models: Mapping[Key, bytes], rounds: int) -> Row:
    """Every lane of both precisions in each round."""
    pixels = np.random.default_rng(0).integers(0, 256, (cell.batch, cell.crop, cell.crop, 3), dtype=np.uint8)
    runs = {key: open_lane(cell.runtime, model, cell.threads) for key, model in models.items()}
    timed = {key: partial(seconds_of, run, pixels) for key, run in runs.items()}
    return Row(cell, interleaved(timed, rounds, TURN_S, str(cell)))


def verdict(ratio: Interval, bound: float) -> str:
    """Judged on the interval: one that straddles the bound is undecided."""
    if ratio.high <= bound:
        return "holds"
    return "does not hold" if ratio.low > bound else "undecided"


def as_text(row: Row, *, head: bool) -> str:
    lines = [str(row.cell)]
    if head:
        bounds = " and ".join(f"{bound} in {precision}" for precision, bound in BOUNDS.items())
        lines.insert(
            0, f"{'':8}{'post, ms':>10}{'pre / post':>24}{'pre folded / post':>24}{'A/A':>24}  (bound: {bounds})"
        )
    for precision in PRECISIONS:
        ratios = [row.ratio((precision, lane), (precision, Lane.POST)) for lane in list(Lane)[1:]]
        cells = "".join(f"{as_interval(ratio):>24}" for ratio in ratios)
        outcome = verdict(ratios[1], BOUNDS[precision])
        lines.append(f"{precision:>8}{row.ms((precision, Lane.POST)):>10.2f}{cells}  {outcome}")
    for lane, ratio in int8_over_fp32(row).items():
        outcome = f"  {verdict(ratio, INT8_BOUND)} (bound: 0.333)" if judged_for_speed(row.cell) else ""
        lines.append(f"{'int8 / fp32, ' + lane:>30}: {as_interval(ratio)}{outcome}")
    return "\n".join(lines)


def int8_over_fp32(row: Row) -> dict[Lane, Interval]:
    lanes = (Lane.POST, Lane.PRE_FOLDED)
    return {lane: row.ratio((Precision.INT8, lane), (Precision.FP32, lane)) for lane in lanes}


def judged_for_speed(cell: Cell) -> bool:
    return (cell.depth, cell.batch) == INT8_BOUND_FOR and cell.runtime is Runtime.ONNXRUNTIME


def as_interval(ratio: Interval) -> str:
    return f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def summary(
    rows: Sequence[Row], folds: Mapping[str, Mapping[str, Any]], failures: Mapping[str, str], rounds: int
) -> dict[str, Any]:
    return {
        "conditions": {
            "rounds": rounds,
            "turn_s": TURN_S,
            "machine": machine(),
            "packages": {name: version(name) for name in ("onnxruntime", "torch", "onnx", "numpy")}
            | ({"openvino": version("openvino")} if Runtime.OPENVINO in runtimes() else {}),
            "weights": "random, with statistics of photographs",
            "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        },
        "rows": [entry for row in rows for entry in entries(row)],
        "folded": folds,
        "not_measured": failures,
    }


def entries(row: Row) -> list[dict[str, Any]]:
    cell = asdict(row.cell)
    found = []
    for precision in PRECISIONS:
        ratios = {lane: row.ratio((precision, lane), (precision, Lane.POST)) for lane in list(Lane)[1:]}
        found.append(
            cell
            | {
                "precision": precision,
                "ms": {lane: row.ms((precision, lane)) for lane in Lane},
                "over_post": {lane: asdict(ratio) for lane, ratio in ratios.items()},
                "bound": BOUNDS[precision],
                "verdict": verdict(ratios[Lane.PRE_FOLDED], BOUNDS[precision]),
            }
        )
    found[-1]["over_fp32"] = {lane: asdict(ratio) for lane, ratio in int8_over_fp32(row).items()}
    return found


def machine() -> str:
    return f"ONNX Runtime {onnxruntime.__version__} on {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The name that the kernel gives, where there is a Linux kernel to ask."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
