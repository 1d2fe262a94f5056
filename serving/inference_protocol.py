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
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from export.artifact import TensorSpec
from serving.body import read_tensors
from serving.classifier import Classifier, Served
from serving.errors import RequestError, wrong_method
from serving.metrics import metrics
from serving.opened import Opened
from serving.tensor_request import DATATYPES, HEADER_LENGTH, read_request, write_answer

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

    async def __call__(self, request: Request) -> Response:
        path = request.url.path.rstrip("/")
        match = PATH.fullmatch(path)
        posts = match is not None and match["what"] == "infer"
        if request.method != ("POST" if posts else "GET"):
            raise wrong_method(request.method, "POST" if posts else "GET")
        if path == "/v2":
            return answer({"name": SERVER, "version": "1", "extensions": ["binary_tensor_data", "classification"]})
        if path == "/v2/health/live":
            return answer({"live": True})
        if path == "/v2/health/ready":
            return readiness({}, self.opened.classifier is not None and self.opened.classifier.fault is None)
        if path == "/v2/models/stats":
            served = self.opened.ready().served
            return answer({"model_stats": [self.statistics(each) for each in served.values()]})
        if match is not None:
            return await self.model(request, match)
        raise RequestError(HTTPStatus.NOT_FOUND, "unknown_path", f"{path} is not part of the protocol")

    async def model(self, request: Request, match: re.Match[str]) -> Response:
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
            return await self.infer(request, served, classifier)
        if match["what"] == "stats":
            return answer({"model_stats": [self.statistics(served)]})
        if match["what"] == "ready":
            return readiness({"name": served.manifest.variant}, served.runner.fault is None)
        return answer(DESCRIPTIONS[match["what"]](served))

    async def infer(self, request: Request, served: Served, classifier: Classifier) -> Response:
        begun = time.perf_counter_ns()
        content = await self.opened.receive(read_tensors(request, classifier.settings.max_tensor_bytes))
        length, arrived = request.headers.get(HEADER_LENGTH), time.perf_counter_ns()
        computed = await self.opened.run(request.receive, compute, content, length, served, arrived)
        counts = self.counts[served.manifest.variant]
        counts.update({"requests": 1, "images": computed.images} | computed.durations_ns)
        stages_s = {stage: computed.durations_ns[name] / 1e9 for name, stage in STAGES.items()}
        stages_s["receive"] = (arrived - begun) / 1e9
        metrics().answered(served.manifest.variant, computed.images, stages_s)
        return Response(computed.body, headers=computed.headers)

    def statistics(self, served: Served) -> dict[str, Any]:
        """Of this worker, in Triton's words; durations in ns."""
        counts = self.counts[served.manifest.variant]
        stages = ("success", "queue", "compute_input", "compute_infer", "compute_output")
        durations = {stage: {"count": counts["requests"], "ns": counts[stage]} for stage in stages}
        return {
            "name": served.manifest.variant,
            "version": served.version,
            "inference_count": counts["images"],
            "execution_count": counts["requests"],
            "inference_stats": durations,
        }


@dataclass(frozen=True, slots=True)
class Computed:
    """An answer, and how long each stage took."""

    body: bytes
    headers: dict[str, str]
    images: int
    durations_ns: dict[str, int]


def compute(content: bytes, length: str | None, served: Served, arrived: int) -> Computed:
    """In a thread of the pool: JSON of pixels takes longer to read than a small network to run."""
    begun = time.perf_counter_ns()
    request = read_request(content, length, served.manifest)
    read = time.perf_counter_ns()
    logits = served.runner.infer(request.pixels)
    inferred = time.perf_counter_ns()
    body, headers = write_answer(request, logits, served.manifest, served.version)
    ended = time.perf_counter_ns()
    durations = {
        "queue": begun - arrived,
        "compute_input": read - begun,
        "compute_infer": inferred - read,
        "compute_output": ended - inferred,
        "success": ended - arrived,
    }
    return Computed(body, headers, len(logits), durations)


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
    response = answer({"error": text}, error.status)
    response.headers.update(error.headers)
    return response
