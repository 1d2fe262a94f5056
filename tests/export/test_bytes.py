"""Bytes are multiplied exactly on every CPU, and fast where it can do both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import graph_session
from export.graph_session import cpu_options, multiplies_bytes_exactly

K, N = 64, 32
LARGEST = 255 * 127


@pytest.fixture(scope="module")
def product() -> bytes:
    """[1, K] uint8 times [K, N] int8, all of them the largest that there are."""
    weights = numpy_helper.from_array(np.full((K, N), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["M", K])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["M", N])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("rows", [1, 8])
def test_the_largest_bytes_do_not_saturate(rows: int, product: bytes) -> None:
    session = onnxruntime.InferenceSession(product, cpu_options(1), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((rows, K), 255, np.uint8)})
    assert (np.asarray(found) == K * LARGEST).all()


def test_weights_stay_signed_where_the_cpu_is_exact_by_itself(product: bytes, tmp_path: Path) -> None:
    """ONNX Runtime has its fastest way for unsigned times signed bytes; the way around saturation is unsigned."""
    options, optimized = cpu_options(1), tmp_path / "optimized.onnx"
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(product, options, providers=["CPUExecutionProvider"])
    (weights,) = onnx.load(optimized).graph.initializer[:1]
    assert (weights.data_type == TensorProto.INT8) or not multiplies_bytes_exactly()


@pytest.mark.parametrize(("exactly", "entry"), [(True, None), (False, "1")])
def test_the_way_around_saturation_is_for_cpus_that_saturate(
    exactly: bool, entry: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_session, "multiplies_bytes_exactly", lambda: exactly)
    options = cpu_options()
    if entry is None:
        with pytest.raises(Exception, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")
    else:
        assert options.get_session_config_entry("session.x64quantprecision") == entry


@pytest.mark.parametrize(
    ("cpu", "exactly"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd asimddp\n", False),
        ("vendor_id\t: avx512_vnni\n", False),
        ("", False),
    ],
)
def test_a_cpu_is_known_by_its_flags(cpu: str, exactly: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(cpu)
    assert multiplies_bytes_exactly(tmp_path / "cpuinfo") is exactly


def test_a_machine_that_says_nothing_is_taken_for_the_slower(tmp_path: Path) -> None:
    assert not multiplies_bytes_exactly(tmp_path / "absent")
