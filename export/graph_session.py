"""A graph, opened by ONNX Runtime on the CPU or on a GPU, and never on one in place of the other. Torch-free."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnxruntime

from export.artifact import ArtifactError, Precision
from export.cuda import UnavailableError

RUNTIME = f"onnxruntime {onnxruntime.__version__}"
CPU = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}
CUDA_PROVIDER = "CUDAExecutionProvider"
CUDA_LIBRARIES = ("cudart", "nvrtc", "cublasLt", "cublas", "curand", "cufft")


def on_cpu(path: Path, intra_op_threads: int = 0, spinning_us: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` by `cpu_options`.

    Where an inference has several threads, those that have nothing to do wait awake for `spinning_us`, which is quicker
    where cores would idle, then asleep, which leaves the cores to others; None is ONNX Runtime's own way, awake for
    tens of milliseconds.

    Raises:
        ArtifactError: ONNX Runtime cannot open the graph.
    """
    options = cpu_options(intra_op_threads)
    if spinning_us == 0:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif spinning_us is not None:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(spinning_us))
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        raise ArtifactError(f"{path}: ONNX Runtime cannot open it ({error})") from error
    give_back()
    return session


def give_back() -> None:
    """To the system, what opening a graph took for a moment: 150 MB for 100 of weights, which glibc would keep."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # other C libraries have none
        trim(0)


def cpu_options(intra_op_threads: int = 0) -> Any:
    """`onnxruntime.SessionOptions` for every session on a CPU; 0 threads are as many as there are cores.

    On x86 CPUs without VNNI ONNX Runtime multiplies bytes by an instruction whose sums of two products saturate at 16
    bits (VPMADDUBSW): int8 networks lose points of accuracy there, and nothing says so. The entry has it take the exact
    way (onnxruntime_session_options_config_keys.h, "x64quantprecision"). It must not be set elsewhere: ONNX Runtime
    heeds it on CPUs with VNNI as well, and does not use VNNI then (a ResNet-50 took 3.2 times as long).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    if not multiplies_bytes_exactly():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def multiplies_bytes_exactly(cpu: Path = CPU) -> bool:
    """Whether this CPU is known to have VNNI; where Linux does not say, it is not."""
    flags = re.findall(r"^flags\s*:(.*)$", cpu.read_text(), re.MULTILINE) if cpu.exists() else []
    return any(not VNNI.isdisjoint(line.split()) for line in flags)


def on_cuda(path: Path, precision: Precision, stream: int) -> Any:
    """A session whose every node runs on the GPU, on a CUDA stream of the caller's, as one CUDA graph.

    It is for batches of one size, in one place in memory (`BoundSession`). By itself ONNX Runtime logs a line and runs
    on the CPU where CUDA fails, or where a node has no kernel for it.

    Raises:
        UnavailableError: not every node would run on the GPU.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = {
        "use_tf32": "0" if precision is Precision.FP32 else "1",  # on by default: 10 bits of a mantissa
        "arena_extend_strategy": "kSameAsRequested",  # else it doubles what it holds, and a service has many
        "user_compute_stream": str(stream),
        "enable_cuda_graph": "1",  # else Python's process launches each kernel, and a small network waits for that
        "prefer_nhwc": str(int(precision is Precision.FP16)),  # what tensor cores want, 0.7 of the time (docs/gpu.md)
    }
    preload()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(CUDA_PROVIDER, settings)])
        session.disable_fallback()
        used = session.get_providers()[0]
    except Exception as error:  # its exceptions have no common base but this
        if (library := missing_library(Path(onnxruntime.__file__).parent / "capi")) is not None:
            reason = f"there is no {library}: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        else:
            reason = str(error)
        raise UnavailableError(f"{path}: ONNX Runtime does not run it on CUDA alone ({reason})") from error
    if used != CUDA_PROVIDER:
        raise UnavailableError(f"{path}: ONNX Runtime would run it with {used}, not on the GPU")
    return session


def preload() -> None:
    """Load CUDA's libraries from wherever pip put them: ONNX Runtime itself looks beside its own folder alone."""
    from cuda.pathfinder import load_nvidia_dynamic_lib  # noqa: PLC0415  absent where no GPU is meant to be

    for name in CUDA_LIBRARIES:
        with suppress(RuntimeError):  # the system's own may do
            load_nvidia_dynamic_lib(name)
    packages = importlib.util.find_spec("nvidia")
    for folder in packages.submodule_search_locations or [] if packages is not None else []:
        if (libraries := Path(folder) / "cudnn" / "lib").is_dir():
            onnxruntime.preload_dlls(cuda=False, directory=str(libraries))


def missing_library(folder: Path) -> str | None:
    """What ONNX Runtime's part for CUDA is linked to and does not find; it says that nodes were assigned to the CPU."""
    for path in (folder / "libonnxruntime_providers_shared.so", folder / "libonnxruntime_providers_cuda.so"):
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            found = re.match(r"(\S+): cannot open shared object file", str(error))
            return found[1] if found is not None and path.exists() else None
    return None


def providers() -> list[str]:
    """What the installed ONNX Runtime was built with, whether it finds a device or not."""
    names: list[str] = onnxruntime.get_available_providers()
    return names
