"""The most probable classes are the same by Python's floats and by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.predictions import FEW, best_of_few, best_of_many, most_probable

LOGITS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40)


@given(LOGITS, st.integers(1, 40))
def test_few_and_many_are_alike(values: list[float], top_k: int) -> None:
    logits = np.array(values, np.float32)
    few, many = best_of_few(logits, top_k), best_of_many(logits, top_k)
    assert [index for index, _ in few] == [index for index, _ in many]
    np.testing.assert_allclose([p for _, p in few], [p for _, p in many], rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("classes", [3, FEW, FEW + 1, 1000])
def test_equal_logits_keep_the_order_of_their_indices(classes: int) -> None:
    labels = [f"class {index}" for index in range(classes)]
    found = most_probable(np.zeros(classes, np.float32), labels, 3)
    assert found == [
        {"label": f"class {index}", "index": index, "probability": round(1 / classes, 6)} for index in range(3)
    ]
