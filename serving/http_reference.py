"""An OpenAPI description as Markdown, for people: docs/http.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Node = Mapping[str, Any]

INTRODUCTION = """# HTTP API

What `/docs.json` says of the shipped pair with default settings; `python -m serving reference` prints it of any
running service. Keys, where a service asks for them, come as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Every
answer of these routes has an `X-Request-Id`, a 401 `WWW-Authenticate`, a 405 `Allow`, a 429 `Retry-After`. All that may
answer 504 read `X-Request-Timeout-Ms`. What answers GET answers HEAD; other paths are 404.
[Serving](serving.md) tells what the routes are for, [troubleshooting](troubleshooting.md) what to do about an error.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """An operation with the parameters of its path."""

    method: str
    path: str
    parameters: list[Node]
    operation: Node

    def refusals(self) -> dict[str, str]:
        return {status: each["description"] for status, each in self.operation["responses"].items() if status >= "400"}

    @property
    def has_keys(self) -> bool:
        """Whether it asks for one where keys are asked for; the others have few errors."""
        return "401" in self.refusals()


def markdown(document: Node) -> str:
    """What most routes refuse, the routes in the order of the description, the objects by name."""
    routes = [
        Route(method, path, [*item.get("parameters", []), *operation.get("parameters", [])], operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    everywhere = set.intersection(*(set(each.refusals().items()) for each in routes if each.has_keys))
    others = ", ".join(f"`{each.path}`" for each in routes if not each.has_keys)
    parts = [INTRODUCTION, "## Errors of most routes\n", f"Of all but {others}:\n", "| status | |", "|---|---|"]
    parts += [f"| {status} | {reason} |" for status, reason in sorted(everywhere)]
    parts += ["", "Those of `/v2` are a [ProtocolError](#protocolerror), the others an [ErrorAnswer](#erroranswer).\n"]
    for each in routes:
        parts += described_route(each, dict(everywhere) if each.has_keys else {})
    parts.append("## Objects\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += described_object(name, schema)
    return "\n".join(parts)


def described_route(route: Route, everywhere: Mapping[str, str]) -> Iterator[str]:
    operation = route.operation
    yield f"## {route.method.upper()} {route.path}\n"
    yield f"{operation['summary']}.\n"
    if route.parameters:
        yield "| parameter | in | | |"
        yield "|---|---|---|---|"
        for each in route.parameters:
            yield f"| `{each['name']}` | {each['in']} | {kind(each['schema'])} | {each['description']} |"
        yield ""
    if body := operation.get("requestBody"):
        yield f"Body, {body['description']}: {', '.join(content_types(body))}.\n"
    yield "| status | | body |"
    yield "|---|---|---|"
    for status, response in operation["responses"].items():
        if everywhere.get(status) != response["description"]:
            yield f"| {status} | {response['description']} | {', '.join(content_types(response))} |"
    yield ""


def content_types(subject: Node) -> Iterator[str]:
    for name, content in subject.get("content", {}).items():
        schema = content.get("schema", {})
        fields = ", ".join(f"`{field}`: {kind(of)}" for field, of in schema.get("properties", {}).items())
        is_json_object = name == "application/json" and not schema.keys().isdisjoint({"$ref", "anyOf"})
        yield kind(schema) if is_json_object else f"`{name}` with {fields}" if fields else f"`{name}`"


def described_object(name: str, schema: Node) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in schema:
        yield f"{schema['description'].partition(chr(10) * 2)[0]}\n"
    if "properties" not in schema:
        yield f"{kind(schema)}\n"
        return
    yield "| field | | |"
    yield "|---|---|---|"
    for field, of in schema["properties"].items():
        yield f"| `{field}` | {kind(of)} | {of.get('description', '')} |"
    yield ""


def kind(schema: Node) -> str:
    """What a value may be, in a few words."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            words = f"[{name}](#{name.lower()})"
        case {"anyOf": choices}:
            words = " or ".join(kind(each) for each in choices)
        case {"enum": values}:
            words = "one of " + ", ".join(f"`{value}`" for value in values)
        case {"contentMediaType": _}:
            words = "file"
        case {"prefixItems": items}:
            words = "list of " + ", ".join(kind(each) for each in items)
        case {"type": "array"}:
            words = f"list of {kind(schema.get('items', {}))}"
        case {"type": "object", "additionalProperties": dict(of)} if of:
            words = f"object of {kind(of)}"
        case _:
            words = schema.get("type", "any") + limits(schema)
    return words


def limits(schema: Node) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f", {least} to {most}"
    return f", at least {least}" if least is not None else f", at most {most}" if most is not None else ""
