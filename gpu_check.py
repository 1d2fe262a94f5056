"""Everything that a GPU has to show, in one command, resumed where it was cut off: `make gpu-check` runs this.

Exports both orderings for every runtime that is there, measures accuracy by what serves, load-tests the service, and
times the engines beside torch. Each step writes a file of its own; what there is, is not run again. Needs no network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from export.artifact import Precision, read_manifest
from export.cuda import Cuda, UnavailableError
from export.gpu_bench import EXIT_CODES, NO_GPU, as_text, cells_in, conditions, status_of
from export.gpu_lanes import GpuRuntime, missing, precisions
from export.results import Results, write_json
from export.rounds import at_least_fewest
from export.verify import MOST_POINTS_LOST, measure_accuracy
from loadtests import results as load_results
from loadtests.differences import compare
from loadtests.local_service import local_service
from models.data import Part, load_split
from serving.config import ServingRuntime, Settings
from serving.runners.choice import open_runner
from serving.runners.machine import Machine

PAIRS = {20: ("resnet20-postact", "resnet20-preact"), 50: ("resnet50-postact", "resnet50-preact")}
SHIPPED = 20
SERVED = (ServingRuntime.TENSORRT, ServingRuntime.TENSORRT_RTX, ServingRuntime.ONNXRUNTIME_CUDA)
SERVED_PRECISION = Precision.FP16
READY_WITHIN_S = 300.0  # engines are opened, and CUDA's libraries loaded
Step = tuple[str, Callable[[], dict[str, Any]]]


def main() -> int:
    options = parser().parse_args()
    cuda = Machine().cuda
    folder: Path = options.out / ("no-gpu" if isinstance(cuda, UnavailableError) else cuda.name.replace(" ", "-"))
    os.environ["BENTOML_HOME"] = str(folder.absolute() / "bentoml")
    present = [runtime for runtime in SERVED if missing(GpuRuntime(runtime), cuda) is None]
    results, cells = results_in(folder, cuda, options), cells_in(folder, cuda, options.rounds)
    if (line := results.begun_anew()) is not None:
        print(line, flush=True)
    wanted = dict(steps(folder, present, options, results))
    for name, step in wanted.items():
        if results.has(name):
            continue
        begun = time.monotonic()
        print(f"\n{name}", flush=True)
        try:
            result = step()
        except Exception as error:  # noqa: BLE001  the other steps go on; the table says so
            result = {"failed": f"{type(error).__name__}: {error}"}
        results.keep(name, result | {"seconds": round(time.monotonic() - begun, 1)})
        report(results, cells, options.out, cuda)
    if isinstance(cuda, UnavailableError):
        print(report(results, cells, options.out, cuda))
        return NO_GPU
    bench = ["--depths", *map(str, options.depths), "--rounds", str(options.rounds)]
    code = subprocess.run(
        [sys.executable, "-m", "export", "gpu-bench", "--out", folder, *bench, *cache_option(folder)],
        check=False,
    ).returncode
    print(report(results, cells, options.out, cuda))
    found = results.all()
    return worst(code, *(status_of(measures(found[name])) for name in wanted))


def worst(*codes: int) -> int:
    """What failed, before what does not hold, before nothing."""
    return min((code for code in codes if code), default=0)


def measures(step: dict[str, Any]) -> list[dict[str, Any]]:
    """What can fail or not hold: the step itself, and each variant's part of it."""
    return [step, *(each for each in step.values() if isinstance(each, dict))]


def results_in(folder: Path, cuda: Cuda | UnavailableError, options: argparse.Namespace) -> Results:
    data = None if options.data is None else options.data.name
    said = {"rounds": options.rounds, "users": options.users, "data": data}
    return Results(folder / "steps", conditions(cuda) | said)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="gpu_check.py", description=__doc__, epilog=EXIT_CODES)
    top.add_argument(
        "--data", type=present_folder, help="CIFAR-10: accuracy of the shipped pair, else that is not measured"
    )
    top.add_argument("--depths", type=int, nargs="+", choices=PAIRS, default=[50, 20], metavar="DEPTH")
    top.add_argument("--rounds", type=at_least_fewest, default=40, help="default: 40")
    top.add_argument("--users", type=int, default=16, help="clients of the load tests (default: 16)")
    top.add_argument("--out", type=Path, default=Path("build/gpu-check"))
    return top


def present_folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return Path(text)


def steps(folder: Path, present: list[ServingRuntime], options: argparse.Namespace, results: Results) -> Iterator[Step]:
    """The quick and important ones first: a machine may be taken away."""
    for runtime in present:
        for precision in precisions(GpuRuntime(runtime)):
            yield f"pair-{runtime}-{precision}", partial(pair, folder, runtime, precision, options.data)
    both = [(runtime, depth) for runtime in present for depth in options.depths]
    for runtime, depth in both:
        yield exported_as(runtime, depth), partial(exported, folder, runtime, depth)
    for payload in ("jpeg", "tensors"):
        for runtime, depth in both:
            name = f"served-{runtime}-resnet{depth}-{SERVED_PRECISION}-{payload}"
            yield name, partial(served, folder, runtime, depth, payload, options, results)


def pair(folder: Path, runtime: ServingRuntime, precision: Precision, data: Path | None) -> dict[str, Any]:
    """Export the shipped pair, and measure what serves it: parity from the export, accuracy by the runner itself."""
    found: dict[str, Any] = {}
    for tag in export(folder, PAIRS[SHIPPED], runtime, precision, data):
        found[tag.partition(":")[0]] = accuracy(tag, runtime, precision, data)
    return found


def export(
    folder: Path, variants: tuple[str, ...], runtime: ServingRuntime, precision: Precision, data: Path | None
) -> list[str]:
    made_for = "onnxruntime" if runtime is ServingRuntime.ONNXRUNTIME_CUDA else str(runtime)
    command = ["-m", "export", *variants, "--runtime", made_for, "--precision", precision, *cache_option(folder)]
    command += ["--data", str(data)] if data is not None else []
    command += ["--most-points-lost", "100"]  # judged here, by what serves, so that a miss is told with its figures
    command += [] if variants == PAIRS[SHIPPED] else ["--untrained"]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout.split()


def cache_option(folder: Path) -> list[str]:
    return ["--engine-cache", str(folder / "engines")]


def accuracy(tag: str, runtime: ServingRuntime, precision: Precision, data: Path | None) -> dict[str, Any]:
    import bentoml  # noqa: PLC0415  it reads BENTOML_HOME when it is imported

    model = bentoml.models.get(tag)
    artifact = Path(model.path)
    manifest = read_manifest(artifact, str(model.tag.version))
    with open_runner(artifact, manifest, Settings.model_validate({"runtime": runtime}), Machine()) as runner:
        found: dict[str, Any] = {"tag": tag, "runtime": runner.runtime, "device": runner.device}
        if manifest.engine is not None and manifest.engine.parity is not None:
            found["parity"] = manifest.engine.parity.model_dump()
        if data is None:
            return found | {"accuracy": None, "not_measured": "no --data"}
        split = load_split(data, Part.TEST, manifest.spec.preprocessing)
        measured = measure_accuracy(runner.infer, split, manifest.labels)
    before = manifest.fp32_accuracy or manifest.accuracy
    assert before is not None
    lost = round(100 * (before.top1 - measured.top1), 6)
    bound = MOST_POINTS_LOST[precision] if precision is not Precision.FP32 else 0.1
    verdict = "holds" if lost <= bound else "does not hold"
    return found | {"accuracy": measured.model_dump(), "points_lost": lost, "bound": bound, "verdict": verdict}


def exported_as(runtime: ServingRuntime, depth: int) -> str:
    return f"export-{runtime}-resnet{depth}-{SERVED_PRECISION}"


def exported(folder: Path, runtime: ServingRuntime, depth: int) -> dict[str, Any]:
    """What the load tests serve, made once for all of them."""
    return {"tags": export(folder, PAIRS[depth], runtime, SERVED_PRECISION, None)}


def served(
    folder: Path, runtime: ServingRuntime, depth: int, payload: str, options: argparse.Namespace, results: Results
) -> dict[str, Any]:
    """Both orderings behind HTTP on the GPU, compared in interleaved rounds."""
    name = exported_as(runtime, depth)
    if not results.has(name):
        raise RuntimeError(f"{name} has failed")
    tags = results.all()[name]["tags"]
    environment = {"SERVING_MODELS": ",".join(tags), "SERVING_RUNTIME": str(runtime)}
    out = folder / "served" / f"{runtime}-resnet{depth}-{SERVED_PRECISION}-{payload}"
    with local_service(environment=environment, ready_within_s=READY_WITHIN_S) as service:
        command = ["-m", "loadtests", "compare", *PAIRS[depth], "--host", service.url, "--out", str(out)]
        command += ["--rounds", str(options.rounds), "--users", str(options.users), "--turn-seconds", "0.5"]
        command += ["--tensors"] if payload == "tensors" else []
        subprocess.run([sys.executable, *command], check=True)
        ready_s = service.ready_s
    found = load_results.Results.read(out / "results.json")
    return {"ready_s": ready_s, "load": found.conditions, "comparison": asdict(compare(found.turns))}


def report(results: Results, cells: Results, out: Path, cuda: Cuda | UnavailableError) -> str:
    """Everything so far: one JSON file beside the folder, and one table."""
    folder, found, timed = results.folder.parent, results.all(), list(cells.all().values())
    machine = folder / "machine.json"
    lacking = {str(runtime): reason for runtime in GpuRuntime if (reason := missing(runtime, cuda)) is not None}
    content = {
        "conditions": results.conditions,
        "machine": json.loads(machine.read_text()) if machine.exists() else {"gpu": None, "missing": lacking},
        "steps": found,
        "cells": timed,
    }
    write_json(out / f"{folder.name}.json", content)
    lines = [f"\n{folder.name}: {cuda}"] + [f"missing: {name}: {reason}" for name, reason in lacking.items()]
    for name, step in found.items():
        lines += [f"{name}  {line}" for line in described(step)]
    lines += [as_text(cell) for cell in timed]
    return "\n".join([*lines, f"{out / folder.name}.json"])


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def described(step: dict[str, Any]) -> list[str]:
    if "failed" in step:
        return [f"failed: {step['failed']}"]
    if "tags" in step:
        return [", ".join(step["tags"])]
    if "comparison" in step:
        by_metric = {each["metric"]: each for each in step["comparison"]["differences"]}
        sides = "; ".join(
            f"{target['variant']} {figure(by_metric['throughput_rps'][side])} req/s, p99 "
            f"{figure(by_metric['p99_ms'][side])} ms"
            for side, target in step["load"]["targets"].items()
        )
        return [f"{sides}; p50 {by_metric['p50_ms']['says']}, ready in {step['ready_s']:.1f} s"]
    return [accuracy_line(variant, each) for variant, each in step.items() if isinstance(each, dict)]


def accuracy_line(variant: str, found: dict[str, Any]) -> str:
    if found["accuracy"] is None:
        return f"{variant}: accuracy not measured, {found['not_measured']}"
    top1 = f"{found['accuracy']['top1']:.2%} of {found['accuracy']['n']}"
    return f"{variant}: {top1}, {found['points_lost']:+.2f} points lost, bound {found['bound']}: {found['verdict']}"


if __name__ == "__main__":
    sys.exit(main())
