"""`make wheelhouse`: every wheel that `make gpu-check` needs on a GPU machine without network, for any Python.

torch and NVIDIA's CUDA libraries are left out: they are gigabytes, and a GPU machine has them. TensorRT itself
fetches NVIDIA's libraries when it is installed (docs/gpu.md).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
GROUPS = ("export", "train", "loadtest", "demo", "gpu")
ON_THE_MACHINE = re.compile(r"^(torch|triton|nvidia-(?!ml-py).*|cuda-toolkit|onnxruntime)==")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]


def main() -> int:
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [line for line in resolved(options.python) if not ON_THE_MACHINE.match(line)]
    wanted += [line for line in (HERE / "onnxruntime-gpu.txt").read_text().splitlines() if not line.startswith("#")]
    for number, requirement in enumerate(wanted, 1):
        print(f"{number} of {len(wanted)}: {requirement}", flush=True)
        if not fetched(requirement, options.python, options.out):
            print(
                f"error: no wheel of {requirement} for Python {options.python}, and none can be built", file=sys.stderr
            )
            return 1
    (options.out / "requirements.txt").write_text("\n".join(wanted) + "\n")
    size = sum(path.stat().st_size for path in options.out.glob("*.whl"))
    print(f"{options.out}: {len(wanted)} packages, {size / 1e6:.0f} MB; there: make gpu-check WHEELS={options.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="such as 3.12")
    top.add_argument("--out", type=Path, default=Path("wheelhouse"))
    return top


def resolved(python: str) -> list[str]:
    """Exact versions, as locked, of what a Linux machine on x86-64 needs."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header"]
    command += ["--no-emit-find-links", "--no-emit-index-url", "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_28", "-c", str(HERE / "lock.txt")]
    command += [word for group in GROUPS for word in ("--group", group)]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True)
    return [line.strip() for line in done.stdout.splitlines() if "==" in line]


def fetched(requirement: str, python: str, out: Path) -> bool:
    """A wheel for that Python, or one built from source that suits every Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    tags = [word for platform in PLATFORMS for word in ("--platform", platform)]
    download = [*pip, "download", "--no-deps", "--only-binary=:all:", "--python-version", python]
    download += ["--implementation", "cp", *tags, "-d", str(out), requirement]
    if subprocess.run(download, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        return True
    before = set(out.glob("*.whl"))
    built = subprocess.run([*pip, "wheel", "--no-deps", "-w", str(out), requirement], check=False).returncode == 0
    return built and all(path.name.endswith("-none-any.whl") for path in set(out.glob("*.whl")) - before)


if __name__ == "__main__":
    sys.exit(main())
