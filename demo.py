"""The main job, end to end, on the shipped weights: `make demo` runs this."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from importlib.resources import files
from pathlib import Path

from loadtests.local_service import local_service

VARIANTS = ("resnet20-postact", "resnet20-preact")
PHOTOGRAPHS = Path(str(files("skimage"))) / "data"
CAT = PHOTOGRAPHS / "chelsea.png"  # CC0, by Stefan van der Walt, part of scikit-image
ROUNDS = 40


def main() -> None:
    tags = [export(variant) for variant in VARIANTS]
    print("\n$ bentoml serve serving.service:Preflight", flush=True)
    with local_service(environment={"SERVING_MODELS": ",".join(tags)}) as service:
        print(f"ready in {service.ready_s:.1f} s at {service.url}")
        for variant in VARIANTS:
            classify(service.url, variant)
        command = ["-m", "loadtests", "compare", *VARIANTS, "--rounds", str(ROUNDS)]
        print(f"\n$ python {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, *command, "--host", service.url], check=True)


def export(variant: str) -> str:
    print(f"$ python -m export {variant}", flush=True)
    command = [sys.executable, "-m", "export", variant, "--images", str(PHOTOGRAPHS)]
    tag = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(tag, flush=True)
    return tag


def classify(url: str, variant: str) -> None:
    print(f"\nPOST {CAT.name} to /classify?variant={variant}&top_k=3")
    request = urllib.request.Request(  # noqa: S310  our own service
        f"{url}/classify?variant={variant}&top_k=3", data=CAT.read_bytes(), headers={"content-type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  our own service
        answer = json.load(response)
    for prediction in answer["predictions"]:
        print(f"  {prediction['label']:12}{prediction['probability']:7.1%}")
    print("  " + ", ".join(f"{stage} {value:.2f} ms" for stage, value in answer["timings_ms"].items()))


if __name__ == "__main__":
    main()
