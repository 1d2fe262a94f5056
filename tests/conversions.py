"""Networks as torch's exporter converts them, each once a process: it takes seconds, and gives the same bytes again."""

from __future__ import annotations

import hashlib

import onnx

from export.to_onnx import ServedGraph, to_onnx

KNOWN: dict[str, bytes] = {}


def converted(graph: ServedGraph) -> onnx.ModelProto:
    """What `to_onnx` makes of it, a copy for each caller; that it does so each time is tested in test_graph.py."""
    graph.eval()  # as `to_onnx` leaves it
    digest = hashlib.sha256(f"{graph}{graph.preprocessing}".encode())
    for name, tensor in graph.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    key = digest.hexdigest()
    if key not in KNOWN:
        KNOWN[key] = to_onnx(graph).SerializeToString()
    return onnx.load_from_string(KNOWN[key])
