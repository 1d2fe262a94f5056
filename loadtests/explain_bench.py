"""What a heat map costs: `/explain` over `/classify` for who asks, and nothing for who does not.

python -m loadtests.explain_bench
"""

from __future__ import annotations

import argparse
import http.client
import io
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from loadtests.api_key import authorization
from loadtests.command_line import positive
from loadtests.json_file import write_json
from loadtests.local_service import local_service
from loadtests.machine import machine
from loadtests.ratios import as_dict, median_over

SIZE = (500, 375)  # of the made-up photograph, in pixels
LANES = ("classify", "classify again", "explain", "classify beside")
RATIOS = {  # of the median latencies of two lanes
    "explain over classify": ("explain", "classify"),
    "classify where maps were asked for, over classify where none was": ("classify beside", "classify"),
    "control: classify over itself": ("classify again", "classify"),
}
Ask = Callable[[], None]


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    result = measure(options.variant, options.rounds, options.requests)
    write_json(options.out, result)
    print(as_text(result))
    print(f"report: {options.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.explain_bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--variant", default="resnet20-preact")
    top.add_argument("--rounds", type=positive(int), default=60, help="of every lane in turn (default: 60)")
    top.add_argument("--requests", type=positive(int), default=20, help="of a lane in a round (default: 20)")
    top.add_argument("--out", type=Path, default=Path("build/bench/explain.json"))
    return top


def measure(variant: str, rounds: int, requests: int) -> dict[str, Any]:
    """Two services, of one of which nobody asks for a map; one request at a time, lanes in a new order each round."""
    photograph = made_up(np.random.default_rng(0))
    with ExitStack() as stack:
        untouched, asked = (
            stack.enter_context(local_service(environment={"SERVING_MODELS": variant})) for _ in range(2)
        )
        explain = asking(stack, asked.url, f"/explain?variant={variant}", photograph)
        explain()  # opens the graph: from here on it is there for `classify beside` too
        plain = asking(stack, untouched.url, f"/classify?variant={variant}", photograph)
        beside = asking(stack, asked.url, f"/classify?variant={variant}", photograph)
        lanes = dict(zip(LANES, (plain, plain, explain, beside), strict=True))
        for ask in lanes.values():
            timed_ms(ask, requests)  # warm
        order = np.random.default_rng(1)
        found: dict[str, list[float]] = {name: [] for name in LANES}
        for _ in tqdm(range(rounds), desc="explaining", unit="round"):
            for name in order.permutation(LANES):
                found[name].append(timed_ms(lanes[name], requests))
    medians = {name: np.array(values) for name, values in found.items()}
    return {
        "measure": f"median latency in ms of {requests} requests a round, seen by the client",
        "variant": variant,
        "rounds": rounds,
        "lanes_ms": {name: round(float(np.median(values)), 4) for name, values in medians.items()},
        "ratios": {name: as_dict(median_over(medians[one] / medians[other])) for name, (one, other) in RATIOS.items()},
        "machine": machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("bentoml", "onnxruntime", "numpy", "pillow")},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def made_up(noise: np.random.Generator) -> bytes:
    """A JPEG."""
    file = io.BytesIO()
    small: NDArray[np.uint8] = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def asking(stack: ExitStack, url: str, path: str, body: bytes) -> Ask:
    """Over a connection that is kept."""
    place, headers = urlsplit(url), {"content-type": "image/jpeg"} | authorization()
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    stack.callback(connection.close)

    def ask() -> None:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {answer.status} {content.decode()}")

    return ask


def timed_ms(ask: Ask, requests: int) -> float:
    """The median of so many."""
    times = []
    for _ in range(requests):
        begun = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(times))


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{name}: {latency:.3f} ms" for name, latency in result["lanes_ms"].items()]
    for name, ratio in result["ratios"].items():
        interval = "too few rounds for an interval" if ratio is None else "{median:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"{name}: {interval.format(**(ratio or {}))}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
