"""The OpenAPI description of what `http_api` really does."""

from __future__ import annotations

import json
from functools import cache
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from serving.answers import BatchAnswer, Classification, Explanation, Variants
from serving.classifier import Classifier
from serving.errors import ErrorAnswer

ERRORS = {
    HTTPStatus.BAD_REQUEST: "a bad deadline",
    HTTPStatus.UNAUTHORIZED: "no API key that is known here, where keys are asked for",
    HTTPStatus.FORBIDDEN: "an API key for something else",
    HTTPStatus.METHOD_NOT_ALLOWED: "this route answers another method",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "too many bytes of headers",
    HTTPStatus.INTERNAL_SERVER_ERROR: "a fault of the service",
    HTTPStatus.SERVICE_UNAVAILABLE: "not ready",
    HTTPStatus.GATEWAY_TIMEOUT: "not answered within the deadline",
}
CLASSIFY_ERRORS = ERRORS | {
    HTTPStatus.BAD_REQUEST: "no readable image, malformed multipart, a bad or unknown parameter or deadline",
    HTTPStatus.NOT_FOUND: "the variant is not served here",
    HTTPStatus.REQUEST_TIMEOUT: "the body came too slowly",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too many bytes or too many pixels",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the content type is not accepted",
    HTTPStatus.TOO_MANY_REQUESTS: "overloaded; retry after the seconds in Retry-After",
}
EXPLAIN_ERRORS = CLASSIFY_ERRORS | {
    HTTPStatus.NOT_FOUND: "the variant is not served here, or was exported without class maps"
}
BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}


@cache
def document(classifier: Classifier) -> bytes:
    """OpenAPI 3.1 for the variants that are open."""
    _, definitions = TypeAdapter.json_schemas(
        [
            (model.__name__, "serialization", TypeAdapter[Any](model))
            for model in (Classification, Explanation, BatchAnswer, Variants, ErrorAnswer)
        ],
        ref_template="#/components/schemas/{model}",
    )
    settings = classifier.settings
    one_image = {
        "required": True,
        "description": f"up to {settings.max_image_bytes} bytes and {settings.max_image_pixels} pixels",
        "content": {
            "image/*": {"schema": {}},
            "application/octet-stream": {"schema": {}},
            "multipart/form-data": {"schema": form("image", BINARY)},
        },
    }
    classify = {
        "summary": "Classify one image",
        "operationId": "classify",
        "parameters": parameters(classifier),
        "requestBody": one_image,
        "responses": {
            "200": response("the most probable classes", "Classification"),
            **error_responses(CLASSIFY_ERRORS),
        },
    }
    explain = {
        "summary": "What in an image speaks for a class: its class activation map",
        "operationId": "explain",
        "parameters": [*parameters(classifier), class_parameter(classifier)],
        "requestBody": one_image,
        "responses": {
            "200": response("the map of the class, and the most probable classes", "Explanation"),
            **error_responses(EXPLAIN_ERRORS),
        },
    }
    files = {"type": "array", "items": BINARY, "minItems": 1, "maxItems": settings.max_images}
    batch = {
        "summary": "Classify several images; each is answered, or refused, on its own",
        "operationId": "classify_batch",
        "parameters": parameters(classifier),
        "requestBody": {
            "required": True,
            "description": f"up to {settings.max_images} images of together up to {settings.max_batch_bytes} bytes",
            "content": {"multipart/form-data": {"schema": form("images", files)}},
        },
        "responses": {
            "200": response("an answer for each image, in their order", "BatchAnswer"),
            **error_responses(CLASSIFY_ERRORS),
        },
    }
    variants = {
        "summary": "What is served: digests, parity, accuracy, runtime",
        "operationId": "variants",
        "responses": {
            "200": response("every served variant, the default one first", "Variants"),
            **error_responses(ERRORS),
        },
    }
    page = {
        "summary": "A page to try the service",
        "responses": {"200": {"description": "HTML", "content": {"text/html": {"schema": {"type": "string"}}}}},
    }
    plain = {"200": {"description": "yes"}, "503": {"description": "no"}}
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Preflight image classification", "version": "1"},
            "paths": {
                "/classify": {"post": classify},
                "/classify/batch": {"post": batch},
                "/explain": {"post": explain},
                "/variants": {"get": variants},
                "/ui/": {"get": page},
                "/readyz": {"get": {"summary": "Every variant has run a warm-up inference", "responses": plain}},
                "/livez": {"get": {"summary": "The worker answers", "responses": plain}},
                "/metrics": {"get": {"summary": "Prometheus metrics", "responses": {"200": plain["200"]}}},
            },
            "components": {"schemas": definitions["$defs"]},
        }
    ).encode()


def most_classes(classifier: Classifier) -> int:
    return max(len(served.manifest.labels) for served in classifier.served.values())


def class_parameter(classifier: Classifier) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0, "maximum": most_classes(classifier) - 1}
    return parameter("class", schema, "its index; default: the most probable")


def parameters(classifier: Classifier) -> list[dict[str, Any]]:
    return [
        parameter(
            "variant", {"type": "string", "enum": list(classifier.served)}, "default: as the service splits them"
        ),
        parameter(
            "top_k",
            {"type": "integer", "minimum": 1, "maximum": most_classes(classifier)},
            "default: 5, or all classes",
        ),
        parameter("X-Client-Key", {"type": "string"}, "who always gets the same variant of a split", "header"),
        parameter(
            "X-Request-Timeout-Ms",
            {"type": "integer", "minimum": 1, "maximum": 10**9 - 1},
            f"answer 504 after this time; at most {classifier.settings.max_timeout_ms}",
            "header",
        ),
        parameter("X-Request-Id", {"type": "string"}, "comes back with the answer, and is in the log", "header"),
    ]


def form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: schema}}


def parameter(name: str, schema: dict[str, Any], description: str, place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "schema": schema, "description": description}


def error_responses(reasons: dict[HTTPStatus, str]) -> dict[str, Any]:
    return {str(int(status)): response(reason, ErrorAnswer.__name__) for status, reason in reasons.items()}


def response(description: str, model: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
