"""The Open Inference Protocol's part of the OpenAPI description."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from serving.classifier import Classifier
from serving.openapi_parts import (
    CLASSIFY_ERRORS,
    ERRORS,
    OPEN_ERRORS,
    error_responses,
    header_parameter,
    id_parameter,
    parameter,
    response,
    timeout_parameter,
)
from serving.protocol_answers import (
    InferenceResponse,
    ModelConfiguration,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ProtocolError,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from serving.tensor_request import HEADER_LENGTH, InferenceRequest

BODIES = (
    InferenceRequest,
    InferenceResponse,
    ModelConfiguration,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ProtocolError,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
MODEL_ERRORS = ERRORS | {HTTPStatus.NOT_FOUND: "the variant, or this version of it, is not served here"}
INFER_ERRORS = (
    CLASSIFY_ERRORS
    | MODEL_ERRORS
    | {
        HTTPStatus.BAD_REQUEST: "tensors or parameters that are not as the model's metadata says, or a bad deadline",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too many bytes",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "a compressed body",
    }
)


def protocol_paths(classifier: Classifier) -> dict[str, Any]:
    return {
        "/v2": {"get": described("server", "The server and its extensions of the protocol", ServerMetadata)},
        "/v2/health/live": {"get": health("server_live", "The worker answers, its device works", ServerLive)},
        "/v2/health/ready": {"get": health("server_ready", "Every variant can be asked", ServerReady)},
        "/v2/models/stats": {"get": described("statistics", "Requests, images, time by stage", ModelStatistics)},
        **model_paths(classifier, "/v2/models/{variant}"),
        **model_paths(classifier, "/v2/models/{variant}/versions/{version}"),
    }


def model_paths(classifier: Classifier, path: str) -> dict[str, Any]:
    named = [parameter("variant", {"type": "string", "enum": list(classifier.served)}, "", "path")]
    if "{version}" in path:
        named.append(parameter("version", {"type": "string"}, "the one that is served", "path"))
    ending = "_of_version" if "{version}" in path else ""

    def get(name: str, summary: str, model: type) -> dict[str, Any]:
        return {"parameters": named, "get": described(name + ending, summary, model, MODEL_ERRORS)}

    return {
        path: get("model", "Names, datatypes and shapes of its tensors", ModelMetadata),
        f"{path}/ready": {
            "parameters": named,
            "get": ready(f"model_ready{ending}"),
        },
        f"{path}/config": get("model_configuration", "What Triton's clients read of it", ModelConfiguration),
        f"{path}/stats": get("model_statistics", "Requests, images, time by stage", ModelStatistics),
        f"{path}/infer": {"parameters": named, "post": inference(f"infer{ending}", classifier)},
    }


def described(name: str, summary: str, model: type, errors: dict[HTTPStatus, str] = ERRORS) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": name,
        "responses": {
            "200": response("what was asked for", model.__name__),
            **error_responses(errors, ProtocolError.__name__),
        },
    }


def health(name: str, summary: str, model: type) -> dict[str, Any]:
    """For everybody, and with no deadline. Triton's and KServe's clients take any 2xx for yes, and read the body of a
    400."""
    operation = described(name, summary, model)
    yes, no = (response(said, model.__name__) for said in ("yes", "no"))
    operation["responses"] = {"200": yes, "400": no, **error_responses(OPEN_ERRORS, ProtocolError.__name__)}
    return operation


def ready(name: str) -> dict[str, Any]:
    operation = described(name, "Its device works", ModelReady, MODEL_ERRORS)
    no = response("no, or a bad deadline", ModelReady.__name__, ProtocolError.__name__)
    operation["responses"] |= {"200": response("yes", ModelReady.__name__), "400": no}
    return operation


def inference(name: str, classifier: Classifier) -> dict[str, Any]:
    most = classifier.settings.max_tensor_bytes
    schema = {"$ref": f"#/components/schemas/{InferenceRequest.__name__}"}
    length = header_parameter(HEADER_LENGTH, {"type": "integer"}, "bytes of JSON, where raw tensors follow it")
    answered = response(
        "logits, or the best classes; raw tensors follow where they were asked for", InferenceResponse.__name__
    )
    answered["content"]["application/octet-stream"] = {}
    return {
        "summary": "Logits or classes of uint8 pixels that are already resized and cropped",
        "operationId": name,
        "parameters": [length, timeout_parameter(classifier.settings.max_timeout_ms), id_parameter()],
        "requestBody": {
            "required": True,
            "description": f"up to {most} bytes",
            "content": {"application/json": {"schema": schema}, "application/octet-stream": {}},
        },
        "responses": {"200": answered, **error_responses(INFER_ERRORS, ProtocolError.__name__)},
    }  # fmt: skip
