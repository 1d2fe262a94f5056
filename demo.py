"""The main job, end to end, on the shipped weights: `make demo` runs this. Every command is shown as it is run."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import urllib.request
from importlib.resources import files
from pathlib import Path

from loadtests.local_service import NO_PROXY, local_service

VARIANTS = ("resnet20-postact", "resnet20-preact")
CAT = Path(str(files("skimage"))) / "data" / "chelsea.png"  # CC0, by Stefan van der Walt, part of scikit-image


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    tags = python("-m", "export", *VARIANTS)
    with local_service(environment={"SERVING_MODELS": tags}) as service:
        show(f"SERVING_MODELS={shlex.quote(' '.join(tags.split()))}", "python", *service.command[1:])
        print(f"ready in {service.ready_s:.1f} s")
        for variant in VARIANTS:
            classify(service.url, variant)
        python("-m", "loadtests", "compare", *VARIANTS, "--max-seconds", "90", "--host", service.url)


def python(*arguments: str) -> str:
    """Run a command line of ours, showing it and its output; returns the output."""
    show("python", *arguments)
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return done.stdout


def show(*command: str) -> None:
    print("\n$", *command, flush=True)


def classify(url: str, variant: str) -> None:
    print(f"\nPOST {CAT.name} to {url}/classify?variant={variant}&top_k=3")
    request = urllib.request.Request(  # noqa: S310  our own service
        f"{url}/classify?variant={variant}&top_k=3", data=CAT.read_bytes(), headers={"content-type": "image/png"}
    )
    with NO_PROXY.open(request, timeout=10) as response:
        answer = json.load(response)
    for prediction in answer["predictions"]:
        print(f"  {prediction['label']:12}{prediction['probability']:7.1%}")
    print("  " + ", ".join(f"{stage} {value:.2f} ms" for stage, value in answer["timings_ms"].items()))


if __name__ == "__main__":
    main()
