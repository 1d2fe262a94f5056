"""The bodies of successful answers, OpenAPI included.

What `/classify` answers are dictionaries whose types are checked where they are made: to build and validate objects for
each took as long as to write them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

from export.artifact import Accuracy, Engine, Parity
from models.spec import BlockOrdering, Preprocessing
from serving.errors import ErrorAnswer


class Prediction(TypedDict):
    label: str
    index: int
    probability: Annotated[float, Field(ge=0, le=1)]


class Timings(TypedDict):
    """Milliseconds that the request spent in each stage, after its body had arrived."""

    queue: Annotated[float, Field(description="waiting for a free thread and, where there are batches, for the runner")]
    decode: Annotated[float, Field(description="encoded image to pixels, resize and crop")]
    infer: Annotated[float, Field(description="pixels to logits")]


class Classification(TypedDict):
    variant: str
    version: str
    trained: Annotated[bool, Field(description="false: random weights, the predictions mean nothing")]
    predictions: Annotated[list[Prediction], Field(description="most probable first")]
    timings_ms: Timings


class Explanation(TypedDict):
    """A class activation map: what each part of an image speaks for a class, as far as the network is concerned."""

    variant: str
    version: str
    trained: Annotated[bool, Field(description="false: random weights, the map means nothing")]
    index: Annotated[int, Field(description="of the class: the one asked for, or the most probable")]
    label: str
    logit: Annotated[
        float, Field(description="the mean of `map`; for fp32 what the variant answers, for int8 before it is rounded")
    ]
    map: Annotated[
        list[list[float]],
        Field(description="rows from top to bottom, over the square in the middle that the network sees; in logits"),
    ]
    minimum: Annotated[float, Field(description="of `map`")]
    maximum: Annotated[float, Field(description="of `map`")]
    crop: Annotated[float, Field(description="side of that square, as a share of the upright image's shorter side")]
    predictions: Annotated[list[Prediction], Field(description="most probable first")]
    timings_ms: Timings


class BatchItem(TypedDict):
    """One image of a batch, in the order they were sent: a classification, or what was wrong."""

    name: Annotated[str, Field(description="of the file, as it was sent")]
    status: Annotated[int, Field(description="what `/classify` would have answered")]
    classification: Classification | None
    error: ErrorAnswer | None


class BatchAnswer(TypedDict):
    results: list[BatchItem]


class Variant(BaseModel):
    """One served model, as far as a client or a load test needs to know it."""

    variant: str
    version: str
    default: bool = Field(description="the first that is served")
    split_percent: float = Field(description="of the requests that name no variant")
    shadow_percent: float = Field(description="of those that others answer: copied to this one, for comparison")
    trained: bool
    ordering: BlockOrdering
    depth: int
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    runtime: str = Field(description="what runs it, and its version")
    device: str = Field(description="where it runs")
    precision: str
    engine: Engine | None = Field(description="the one that is open, with its own parity and accuracy; for TensorRT")
    passed_over: dict[str, str] = Field(description="why each better runtime does not run it")
    max_batch_size: int
    files: dict[str, str] = Field(description="sha256 of each model file")
    checkpoint_sha256: str | None
    parity: Parity | None
    accuracy: Accuracy | None = Field(description="of the exported graph")
    training_accuracy: Accuracy | None = Field(description="of the checkpoint, as its training recorded it")
    not_measured: dict[str, str] = Field(description="why a measurement is null")


class Variants(BaseModel):
    variants: list[Variant]
