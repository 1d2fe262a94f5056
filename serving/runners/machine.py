"""What this machine has to run models with."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from export.artifact import Runtime
from export.cuda import Cuda, UnavailableError, cuda_or_reason
from export.flavour import load


class Machine:
    """Asked only when something wants to know: packages for GPUs take long to import."""

    @cached_property
    def cuda(self) -> Cuda | UnavailableError:
        return cuda_or_reason()

    def gpu(self) -> Cuda:
        """Raises UnavailableError where there is none."""
        if isinstance(self.cuda, UnavailableError):
            raise self.cuda
        return self.cuda

    def tensorrt(self, flavour: Runtime) -> Any:
        """The Python module; raises UnavailableError where it is not installed."""
        return load(flavour)

    @cached_property
    def onnxruntime_has_cuda(self) -> bool:
        """Whether the installed ONNX Runtime was built for GPUs; whether it finds one is another question."""
        from export.graph_session import CUDA_PROVIDER, providers  # noqa: PLC0415  not needed where TensorRT serves

        return CUDA_PROVIDER in providers()
