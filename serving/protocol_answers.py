"""The bodies of successful answers of the Open Inference Protocol, OpenAPI included."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12


class ServerMetadata(TypedDict):
    name: str
    version: str
    extensions: Annotated[list[str], Field(description="of the protocol, as Triton names them")]


class ServerLive(TypedDict):
    live: bool


class ServerReady(TypedDict):
    ready: bool


class ModelReady(TypedDict):
    name: str
    ready: bool


class TensorMetadata(TypedDict):
    name: str
    datatype: str
    shape: Annotated[list[int], Field(description="-1 is the number of images")]


class ModelMetadata(TypedDict):
    name: str
    versions: list[str]
    platform: Annotated[str, Field(description="`onnxruntime_onnx` or `tensorrt_plan`")]
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfiguredTensor(TypedDict):
    name: str
    data_type: str
    dims: Annotated[list[int], Field(description="without the number of images")]


class ModelConfiguration(TypedDict):
    """Triton's, as far as its clients read it."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]


class Duration(TypedDict):
    count: int
    ns: Annotated[int, Field(description="nanoseconds, of all of them together")]


class InferenceStatistics(TypedDict):
    """By stage; `compute_input` is decoding, `compute_output` writing the answer."""

    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    success: Annotated[Duration, Field(description="all stages together")]


class Statistics(TypedDict):
    """Of one model, of the worker that answers."""

    name: str
    version: str
    inference_count: Annotated[int, Field(description="images")]
    execution_count: Annotated[int, Field(description="requests")]
    inference_stats: InferenceStatistics


class ModelStatistics(TypedDict):
    model_stats: list[Statistics]


class ResponseOutput(TypedDict, total=False):
    """Logits, or `BYTES` of the form `logit:index:label` for the best classes."""

    name: str
    datatype: str
    shape: list[int]
    data: Annotated[list[Any], Field(description="absent where it follows as bytes")]
    parameters: Annotated[dict[str, int], Field(description="`binary_data_size`: bytes of the tensor behind the JSON")]


class InferenceResponse(TypedDict, total=False):
    model_name: str
    model_version: str
    id: Annotated[str, Field(description="the request's, where it had one")]
    outputs: list[ResponseOutput]


class ProtocolError(TypedDict):
    error: Annotated[str, Field(description="what was wrong, what was found, and what is accepted")]
