"""An engine's session over a host-memory double of the GPU: what arrives, what is freed, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.artifact import ArtifactError, Engine, OptimizationProfile, Runtime
from export.buckets import buckets_of
from export.cuda import Cuda, DeviceError, UnavailableError, open_cuda
from export.engine_session import EngineSession
from export.images import random_pixels
from export.to_onnx import ServedGraph, to_onnx
from export.verify import open_graph
from models.resnet import build
from models.spec import spec_for
from tests.host_gpu import cudart, tensorrt_rtx
from tests.host_gpu.engines import CLASSES, OWN, VERSION, HostTensorRt
from tests.host_gpu.runtime import HostCudart

LARGEST = 6
FLAVOURS = [Runtime.TENSORRT, Runtime.TENSORRT_RTX]


@pytest.fixture(scope="module", params=["resnet8-postact", "resnet8-preact"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = spec_for(request.param)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(to_onnx(ServedGraph(build(spec, seed=0), spec.preprocessing)), path)
    return path


def described(flavour: Runtime = Runtime.TENSORRT_RTX, **changes: Any) -> Engine:
    fields = {
        "flavour": flavour,
        "version": VERSION,
        "compute_capability": "8.9",
        "onnx_sha256": "",
        "profile": OptimizationProfile(minimum=1, optimum=4, maximum=LARGEST),
        "optimization_level": None,
        "not_measured": "a double",
    }
    return Engine.model_validate(fields | changes)


@contextmanager
def session(tensorrt: HostTensorRt, engine: Engine | None = None, **more: Any) -> Iterator[EngineSession]:
    cuda = Cuda(tensorrt.engine.cudart)
    engine = engine or described(tensorrt.flavour)
    with EngineSession(b"engine", engine, cuda, tensorrt, source="x.engine", rebuild="rebuild it: so", **more) as each:
        yield each


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("capturable", [True, False])
def test_every_batch_size_is_answered_as_the_graph_answers(graph: Path, flavour: Runtime, capturable: bool) -> None:
    cudart = HostCudart()
    tensorrt = HostTensorRt(graph, cudart, flavour, largest=LARGEST, capturable=capturable)
    expected = open_graph(graph)
    pixels = random_pixels(spec_for("resnet8-preact").preprocessing, 2 * LARGEST + 1)
    with session(tensorrt) as opened:
        assert opened.buckets == (1, 2, 4, 6)
        tensorrt.engine.batches.clear()
        for n in (1, 2, 3, 4, 5, LARGEST, LARGEST + 1, 2 * LARGEST + 1):
            np.testing.assert_allclose(opened.run(pixels[:n]), expected(pixels[:n]), rtol=1e-4, atol=1e-4)
        assert tensorrt.engine.batches == [1, 2, 4, 4, 6, 6, 6, 1, 6, 6, 1]
        captured = capturable or flavour is Runtime.TENSORRT  # which has no word on it
        assert cudart.launches == (11 if captured else 0)
    assert not cudart.leaks


def test_an_answer_is_not_changed_by_the_next(graph: Path) -> None:
    pixels = random_pixels(spec_for("resnet8-preact").preprocessing, 2)
    with session(HostTensorRt(graph, HostCudart(), largest=LARGEST)) as opened:
        first = opened.run(pixels[:1])
        kept = first.copy()
        opened.run(pixels[1:])
        np.testing.assert_array_equal(first, kept)


def test_a_view_that_is_not_contiguous_is_uploaded_whole(graph: Path) -> None:
    pixels = random_pixels(spec_for("resnet8-preact").preprocessing, 4)
    with session(HostTensorRt(graph, HostCudart(), largest=LARGEST)) as opened:
        np.testing.assert_array_equal(opened.run(pixels[::-2]), opened.run(pixels[::-2].copy()))


@pytest.mark.parametrize(
    ("here", "changes", "message"),
    [
        ("8.9", {"version": "1.0.0"}, f"x.engine: was built by tensorrt_rtx 1.0.0, here is {VERSION}"),
        ("8.6", {}, "x.engine: was built for compute capability 8.9, here is Host GPU, compute capability 8.6"),
        ("7.5", {"compute_capability": None}, "x.engine: was built for compute capability 8.0 and later, here is Host"),
    ],
)
def test_an_engine_of_another_machine_is_refused_with_both_values(
    graph: Path, here: str, changes: dict[str, Any], message: str
) -> None:
    cudart = HostCudart(here)
    with pytest.raises(ArtifactError) as caught, session(HostTensorRt(graph, cudart), described(**changes)):
        pass
    assert message in str(caught.value)
    assert str(caught.value).endswith("; rebuild it: so")
    assert not cudart.leaks


def test_an_engine_of_another_model_of_gpu_opens_with_a_warning(graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensorrt = HostTensorRt(graph, HostCudart(), Runtime.TENSORRT)
    with session(tensorrt, described(Runtime.TENSORRT, gpu="Host GPU")), session(tensorrt):
        assert not caplog.messages
    with session(tensorrt, described(Runtime.TENSORRT, gpu="NVIDIA L4")):
        (warning,) = caplog.messages
    assert warning.startswith("x.engine: was built on NVIDIA L4, here is Host GPU: ")
    assert warning.endswith("; rebuild it: so")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"opens": False},
            r"x\.engine: does not open on Host GPU, compute capability 8\.9: it gives no reason; rebuild",
        ),
        ({"valid": False}, r"x\.engine: not valid on Host GPU.*UNSUPPORTED_CC.*; rebuild it: so"),
        ({"works": False}, "TensorRT does not run a batch of 1"),
    ],
)
def test_what_tensorrt_refuses_is_said_and_everything_is_freed(
    graph: Path, wrong: dict[str, bool], message: str
) -> None:
    cudart = HostCudart()
    with pytest.raises(ArtifactError, match=message), session(HostTensorRt(graph, cudart, **wrong)):
        pass
    assert not cudart.leaks


def test_when_memory_runs_out_everything_is_freed(graph: Path) -> None:
    class Small(HostCudart):
        def cudaHostAlloc(self, size: int, flags: int) -> Any:
            return (self.cudaError_t.cudaErrorMemoryAllocation, None) if self.pinned else super().cudaHostAlloc(size, 0)

    cudart = Small()
    with (
        pytest.raises(DeviceError, match="cudaHostAlloc: cudaErrorMemoryAllocation: out of memory"),
        session(HostTensorRt(graph, cudart)),
    ):
        pass
    assert not cudart.leaks


def test_compiled_kernels_are_kept_and_a_folder_that_cannot_be_written_is_no_error(
    graph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = tmp_path / "cache" / "x.kernels"
    with session(HostTensorRt(graph, HostCudart()), kernels=kernels):
        assert kernels.read_bytes() == b"kernels"
    with session(HostTensorRt(graph, HostCudart()), kernels=kernels / "below-a-file"):
        assert "is not kept" in caplog.text


def test_without_a_device_nothing_is_opened() -> None:
    with pytest.raises(UnavailableError, match=r"no usable CUDA device \(cudaErrorNoDevice"):
        Cuda(HostCudart(devices=0))


def test_this_machine_says_what_it_lacks_or_names_its_gpu() -> None:
    """The real binding, whatever is here."""
    try:
        assert "compute capability" in str(open_cuda())
    except UnavailableError as error:
        assert "no usable CUDA device" in str(error)  # noqa: PT017


def test_buckets_end_at_the_largest_batch() -> None:
    assert [buckets_of(largest) for largest in (1, 2, 6, 64)] == [
        (1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8, 16, 32, 64)
    ]  # fmt: skip


def test_the_double_has_no_name_that_the_real_binding_lacks() -> None:
    """Those of CUDA's runtime too; what is the double's own is listed."""
    for name, double in CLASSES.items():
        public = {each for each in dir(double) if not each.startswith("_")} - OWN
        assert public
        assert not public - set(dir(getattr(tensorrt_rtx, name)))
    assert not {name for name in vars(HostCudart) if name.startswith("cuda")} - set(dir(cudart))


@pytest.mark.no_gpu
def test_the_real_cuda_runtime_takes_the_arguments_that_we_give() -> None:
    """Without a driver every call fails, but only after its arguments were found good."""
    stream, pointer = cudart.cudaStream_t(0), 0
    up = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    calls: dict[str, tuple[Any, ...]] = {
        "cudaGetDeviceProperties": (0,),
        "cudaSetDevice": (0,),
        "cudaDeviceSynchronize": (),
        "cudaMalloc": (16,),
        "cudaFree": (pointer,),
        "cudaHostAlloc": (16, cudart.cudaHostAllocDefault),
        "cudaFreeHost": (pointer,),
        "cudaStreamCreateWithFlags": (cudart.cudaStreamNonBlocking,),
        "cudaStreamSynchronize": (stream,),
        "cudaStreamDestroy": (stream,),
        "cudaMemcpyAsync": (pointer, pointer, 0, up, stream),
        "cudaStreamBeginCapture": (stream, mode),
        "cudaStreamEndCapture": (stream,),
        "cudaGraphInstantiate": (cudart.cudaGraph_t(0), 0),
        "cudaGraphLaunch": (cudart.cudaGraphExec_t(0), stream),
        "cudaGraphExecDestroy": (cudart.cudaGraphExec_t(0),),
        "cudaGraphDestroy": (cudart.cudaGraph_t(0),),
        "cudaEventCreate": (),
        "cudaEventRecord": (cudart.cudaEvent_t(0), 0),  # a stream of torch's is a number
        "cudaEventSynchronize": (cudart.cudaEvent_t(0),),
        "cudaEventElapsedTime": (cudart.cudaEvent_t(0), cudart.cudaEvent_t(0)),
        "cudaEventDestroy": (cudart.cudaEvent_t(0),),
    }
    assert calls.keys() | {"cudaGetDeviceCount", "cudaGetErrorString"} == {
        name for name in vars(HostCudart) if name.startswith("cuda")
    }
    for name, arguments in calls.items():
        error, *_ = getattr(cudart, name)(*arguments)
        assert isinstance(error, cudart.cudaError_t), name
