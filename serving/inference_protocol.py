"""The Open Inference Protocol (V2): what KServe, Triton's clients and their load generators speak.

    /v2                                            the server, its version and extensions
    /v2/health/live, /v2/health/ready
    /v2/models/{variant}[/versions/{version}]      metadata; below it /ready, /config, /stats and, by POST, /infer

Tensors are what the graph takes and gives: uint8 pixels, already resized and cropped, and float32 logits, or the best
classes where the `classification` parameter asks for them. Errors are one object with `error`, as the protocol has it.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from http import HTTPStatus

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json
from starlette.responses import Response

from export.artifact import TensorSpec
from serving.body import read_tensors
from serving.call import Call
from serving.classifier import Served
from serving.errors import RequestError, refuse_other_methods
from serving.metrics import metrics
from serving.opened import Opened
from serving.protocol_answers import (
    ConfiguredTensor,
    Duration,
    InferenceStatistics,
    ModelConfiguration,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ProtocolError,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
    TensorMetadata,
)
from serving.tensor_request import DATATYPES, HEADER_LENGTH, TensorRequest, read_request, write_answer
from serving.work import Moments, Work

# "statistics" is there, but not promised: of several workers each has its own, and perf_analyzer, which would then ask
# for them, ends with an exception where a version is no number.
SERVER: ServerMetadata = {
    "name": "preflight", "version": "1", "extensions": ["binary_tensor_data", "classification"]
}  # fmt: skip
PATHS = ROOT, LIVE, READY, STATISTICS = "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"
PATH = re.compile(
    r"/v2/models/(?P<variant>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>ready|config|stats|infer))?"
)
STAGES = {"queue": "queue", "compute_input": "decode", "compute_infer": "infer", "compute_output": "answer"}
TRITON_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


class InferenceProtocol:
    """Answers what begins with /v2."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def __call__(self, call: Call) -> Response:
        path = call.path.rstrip("/")
        match = PATH.fullmatch(path)
        if match is None and path not in PATHS:
            raise RequestError(HTTPStatus.NOT_FOUND, "unknown_path", f"{path} is not part of the protocol")
        posts = match is not None and match["what"] == "infer"
        refuse_other_methods(call.method, "POST" if posts else "GET")
        if path == ROOT:
            return answer(SERVER)
        if path == LIVE:
            live: ServerLive = {"live": self.opened.is_live}
            return readiness(live, live["live"])
        if path == READY:
            server: ServerReady = {"ready": self.opened.is_ready}
            return readiness(server, server["ready"])
        if path == STATISTICS:
            return answer(self.statistics(*self.opened.ready().served.values()))
        assert match is not None
        return await self.model(call, match)

    async def model(self, call: Call, match: re.Match[str]) -> Response:
        classifier = self.opened.ready()
        served = classifier.choose(match["variant"])
        if match["version"] not in (None, served.version):
            raise RequestError(
                HTTPStatus.NOT_FOUND,
                "unknown_version",
                f"{match['variant']} is served in another version",
                found=match["version"],
                accepted=[served.version],
            )
        if match["what"] == "infer":
            return await self.infer(call, served)
        if match["what"] == "stats":
            return answer(self.statistics(served))
        if match["what"] == "ready":
            is_ready = served.runner.fault is None and not self.opened.draining
            model: ModelReady = {"name": served.manifest.variant, "ready": is_ready}
            return readiness(model, model["ready"])
        return answer(configuration(served) if match["what"] == "config" else metadata(served))

    async def infer(self, call: Call, served: Served) -> Response:
        called = time.perf_counter()
        content = await self.opened.receive(
            call, served.lane, read_tensors(call, self.opened.settings.max_tensor_bytes)
        )
        work = inference(content, call, served, Moments(called, time.perf_counter()))
        response = await self.opened.run(served.lane, work)
        assert work.images is not None
        images, stages_s = len(work.images), dict(work.moments.stages_s(time.perf_counter()))
        counts = self.counts[served.manifest.variant]
        counts.update({"requests": 1, "images": images})
        counts.update({name: round(stages_s[stage] * 1e9) for name, stage in STAGES.items()})
        metrics().spent(served.manifest.variant, "receive", work.moments.receive_s)
        metrics().answered(served.manifest.variant, images, stages_s.items())
        return response

    def statistics(self, *served: Served) -> ModelStatistics:
        """Of this worker."""
        return {"model_stats": [statistics_of(each, self.counts[each.manifest.variant]) for each in served]}


def inference(content: bytes, call: Call, served: Served, moments: Moments) -> Work[Response]:
    """Read in a thread, for JSON of pixels takes longer to read than a small network to run."""
    request: TensorRequest | None = None

    def read() -> NDArray[np.uint8]:
        nonlocal request
        request = read_request(content, call.headers.get(HEADER_LENGTH), served.manifest)
        return request.pixels

    def write(logits: NDArray[np.float32], _: Moments) -> Response:
        assert request is not None
        return write_answer(request, logits, served.manifest, served.version)

    return Work(read, write, moments, call.deadline)


def statistics_of(served: Served, counts: Counter[str]) -> Statistics:
    def lasted(*stages: str) -> Duration:
        return {"count": counts["requests"], "ns": sum(counts[stage] for stage in stages)}

    stages: InferenceStatistics = {
        "queue": lasted("queue"),
        "compute_input": lasted("compute_input"),
        "compute_infer": lasted("compute_infer"),
        "compute_output": lasted("compute_output"),
        "success": lasted(*STAGES),
    }
    return {
        "name": served.manifest.variant,
        "version": served.version,
        "inference_count": counts["images"],
        "execution_count": counts["requests"],
        "inference_stats": stages,
    }


def readiness(content: ServerLive | ServerReady | ModelReady, is_ready: bool) -> Response:
    """What is served has answered a warm-up; a device may have failed since."""
    return answer(content, HTTPStatus.OK if is_ready else HTTPStatus.BAD_REQUEST)


def metadata(served: Served) -> ModelMetadata:
    manifest = served.manifest
    return {
        "name": manifest.variant,
        "versions": [served.version],
        "platform": platform(served),
        "inputs": [described(manifest.input)],
        "outputs": [described(manifest.output)],
    }


def configuration(served: Served) -> ModelConfiguration:
    manifest = served.manifest
    return {
        "name": manifest.variant,
        "platform": platform(served),
        "backend": served.runner.runtime.partition(" ")[0],
        "max_batch_size": manifest.max_batch_size,
        "input": [configured(manifest.input)],
        "output": [configured(manifest.output)],
    }


def configured(tensor: TensorSpec) -> ConfiguredTensor:
    """Its first size, the batch's, has a place of its own."""
    sizes = [size for size in tensor.shape if isinstance(size, int)]
    return {"name": tensor.name, "data_type": TRITON_TYPES[tensor.dtype], "dims": sizes}


def platform(served: Served) -> str:
    return "onnxruntime_onnx" if served.runner.engine is None else "tensorrt_plan"


def described(tensor: TensorSpec) -> TensorMetadata:
    sizes = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": sizes}


def answer(content: Mapping[str, object], status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def as_protocol(error: RequestError) -> Response:
    """One sentence in `error`: all that the protocol has room for."""
    said = error.answer
    text = said.message
    text += f"; found {said.found}" if said.found else ""
    text += f"; accepted: {', '.join(said.accepted)}" if said.accepted else ""
    content: ProtocolError = {"error": text}
    return Response(to_json(content), error.status, error.headers, "application/json")
