"""LitServe with one worker process a core, as the docstring of `LitServer` advises for CPUs (`workers_per_device`).

Its workers have no threads, so there are as many of them as other lanes have threads; the number of API servers is the
default, which it recommends. `fast_queue=True` would be for more than 100 requests a second, and does nothing in 0.2.19
(Lightning-AI/LitServe issue 751).
"""

# No `from __future__ import annotations`: LitServe hands decode_request's annotation to FastAPI as it stands.

import argparse
from typing import Annotated, Any

import litserve
from fastapi import Body

from loadtests.serving_bench.peers.graph import Graph, threads


class Classify(litserve.LitAPI):  # type: ignore[misc]  # where litserve is absent it is Any
    def setup(self, device: str) -> None:  # noqa: ARG002  LitServe's signature
        self.graph = Graph()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        return request

    def predict(self, encoded: bytes) -> list[dict[str, Any]]:
        return self.graph.classify(encoded)

    def encode_response(self, predictions: list[dict[str, Any]]) -> dict[str, Any]:
        return {"predictions": predictions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer(
        Classify(api_path="/classify"), accelerator="cpu", workers_per_device=threads(), healthcheck_path="/readyz"
    )
    server.run(
        host="127.0.0.1", port=parser.parse_args().port, log_level="warning", generate_client_file=False,
        access_log=False, loop="uvloop", http="httptools",
    )  # fmt: skip


if __name__ == "__main__":
    main()
