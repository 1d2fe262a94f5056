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
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json
from starlette.responses import Response

from export.artifact import TensorSpec
from serving.body import read_tensors
from serving.call import Call
from serving.classifier import Served
from serving.errors import RequestError, wrong_method
from serving.metrics import metrics
from serving.opened import Opened
from serving.tensor_request import DATATYPES, HEADER_LENGTH, TensorRequest, read_request, write_answer
from serving.work import Moments, Work

SERVER = "preflight"
PATH = re.compile(
    r"/v2/models/(?P<variant>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>ready|config|stats|infer))?/?"
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
        posts = match is not None and match["what"] == "infer"
        if call.method != (method := "POST" if posts else "GET"):
            raise wrong_method(call.method, method)
        if path == "/v2":
            return answer({"name": SERVER, "version": "1", "extensions": ["binary_tensor_data", "classification"]})
        if path == "/v2/health/live":
            return answer({"live": True})
        if path == "/v2/health/ready":
            return readiness({}, self.opened.is_ready)
        if path == "/v2/models/stats":
            served = self.opened.ready().served
            return answer({"model_stats": [self.statistics(each) for each in served.values()]})
        if match is not None:
            return await self.model(call, match)
        raise RequestError(HTTPStatus.NOT_FOUND, "unknown_path", f"{path} is not part of the protocol")

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
            return answer({"model_stats": [self.statistics(served)]})
        if match["what"] == "ready":
            return readiness({"name": served.manifest.variant}, served.runner.fault is None)
        return answer(DESCRIPTIONS[match["what"]](served))

    async def infer(self, call: Call, served: Served) -> Response:
        called = time.perf_counter()
        content = await self.opened.receive(call, read_tensors(call, self.opened.settings.max_tensor_bytes))
        work = inference(content, call, served, Moments(called, time.perf_counter()))
        response = await self.opened.run(call.receive, served.lane, work)
        assert work.images is not None
        images, stages_s = len(work.images), dict(work.moments.stages_s(time.perf_counter()))
        counts = self.counts[served.manifest.variant]
        counts.update({"requests": 1, "images": images})
        counts.update({name: round(stages_s[stage] * 1e9) for name, stage in STAGES.items()})
        metrics().answered(served.manifest.variant, images, stages_s.items())
        return response

    def statistics(self, served: Served) -> dict[str, Any]:
        """Of this worker, in Triton's words; durations in ns."""
        counts = self.counts[served.manifest.variant]
        durations = {name: {"count": counts["requests"], "ns": counts[name]} for name in STAGES}
        durations["success"] = {"count": counts["requests"], "ns": sum(counts[name] for name in STAGES)}
        return {
            "name": served.manifest.variant,
            "version": served.version,
            "inference_count": counts["images"],
            "execution_count": counts["requests"],
            "inference_stats": durations,
        }


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


def readiness(subject: dict[str, Any], is_ready: bool) -> Response:
    """What is served has answered a warm-up; a device may have failed since."""
    return answer(subject | {"ready": is_ready}, HTTPStatus.OK if is_ready else HTTPStatus.BAD_REQUEST)


def metadata(served: Served) -> dict[str, Any]:
    manifest = served.manifest
    return {
        "name": manifest.variant,
        "versions": [served.version],
        "platform": platform(served),
        "inputs": [described(manifest.input)],
        "outputs": [described(manifest.output)],
    }


def configuration(served: Served) -> dict[str, Any]:
    """Triton's model configuration, as far as its clients read it."""
    manifest = served.manifest
    tensors = {"input": manifest.input, "output": manifest.output}
    return {
        "name": manifest.variant,
        "platform": platform(served),
        "backend": served.runner.runtime.partition(" ")[0],
        "max_batch_size": manifest.max_batch_size,
    } | {
        kind: [{"name": each.name, "data_type": TRITON_TYPES[each.dtype], "dims": list(each.shape[1:])}]
        for kind, each in tensors.items()
    }


DESCRIPTIONS = {None: metadata, "config": configuration}


def platform(served: Served) -> str:
    return "onnxruntime_onnx" if served.runner.engine is None else "tensorrt_plan"


def described(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": DATATYPES[tensor.dtype],
        "shape": [-1 if size == "batch" else size for size in tensor.shape],
    }


def answer(content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def as_protocol(error: RequestError) -> Response:
    """One sentence in `error`: all that the protocol has room for."""
    said = error.answer
    text = said.message
    text += f"; found {said.found}" if said.found else ""
    text += f"; accepted: {', '.join(said.accepted)}" if said.accepted else ""
    return Response(to_json({"error": text}), error.status, error.headers, "application/json")
