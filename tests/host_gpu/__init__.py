"""A GPU that is none: CUDA's runtime and TensorRT's over host memory, an engine being its graph run by ONNX Runtime.

It is strict where a GPU would corrupt or crash: streams run nothing before somebody waits, memory is garbage until
written, copies only go between memory of the right kinds, a thread has to choose its device, an engine's first run must
not be captured, what an engine runs with has to be alive, and all that was taken has to be given back. Its clock counts
the work that streams have done. Every name exists in the real bindings, or is an error.
"""

import pytest

NEEDED = "needs TensorRT-RTX and cuda-bindings, which are for Linux on x86-64"
tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason=NEEDED)
cudart = pytest.importorskip("cuda.bindings.runtime", reason=NEEDED)
