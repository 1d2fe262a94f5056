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
from serving.openapi_parts import (
    CLASSIFY_ERRORS,
    ERRORS,
    OPEN_ERRORS,
    SECURITY_SCHEMES,
    error_responses,
    form,
    header_parameter,
    id_parameter,
    locked,
    of_type,
    parameter,
    response,
    timeout_parameter,
)
from serving.openapi_protocol import BODIES, protocol_paths
from serving.routing import CLIENT_HEADER

EXPLAIN_ERRORS = CLASSIFY_ERRORS | {
    HTTPStatus.NOT_FOUND: "the variant is not served here, or was exported without class maps"
}
PAGE_ERRORS = OPEN_ERRORS | {each: ERRORS[each] for each in (HTTPStatus.BAD_REQUEST, HTTPStatus.GATEWAY_TIMEOUT)}
BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}


@cache
def document(classifier: Classifier, asks_for_keys: bool) -> bytes:
    """OpenAPI 3.1 for the variants that are open."""
    _, definitions = TypeAdapter.json_schemas(
        [
            (model.__name__, "serialization", TypeAdapter[Any](model))
            for model in (Classification, Explanation, BatchAnswer, Variants, ErrorAnswer, *BODIES)
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
        "responses": {"200": of_type("text/html", {"type": "string"}, "HTML"), **error_responses(PAGE_ERRORS)},
    }
    described = {
        "summary": "This description",
        "responses": {"200": of_type("application/json", {"type": "object"}, "OpenAPI"), **error_responses(ERRORS)},
    }
    metrics = {
        "summary": "Prometheus metrics",
        "responses": {"200": of_type("text/plain", {"type": "string"}, "yes"), **error_responses(ERRORS)},
    }
    paths = {
        "/classify": {"post": classify},
        "/classify/batch": {"post": batch},
        "/explain": {"post": explain},
        "/variants": {"get": variants},
        "/docs.json": {"get": described},
        "/metrics": {"get": metrics},
        **protocol_paths(classifier),
        "/ui/": {"get": page},
        "/readyz": {"get": probe("Every variant has run a warm-up inference")},
        "/livez": {"get": probe("The worker answers, its device works; `/healthz` is the same")},
    }
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Preflight image classification", "version": "1"},
            "paths": locked(paths) if asks_for_keys else paths,
            "components": {"schemas": definitions["$defs"], "securitySchemes": SECURITY_SCHEMES},
        }
    ).encode()


def probe(summary: str) -> dict[str, Any]:
    errors = OPEN_ERRORS | {HTTPStatus.SERVICE_UNAVAILABLE: "no"}
    return {
        "summary": summary,
        "responses": {"200": of_type("text/plain", {"type": "string"}, "yes"), **error_responses(errors)},
    }


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
        header_parameter(CLIENT_HEADER, {"type": "string"}, "who always gets the same variant of a split"),
        timeout_parameter(classifier.settings.max_timeout_ms),
        id_parameter(),
    ]
