"""The HTTP reference is what the service says of itself, and what it says of the Open Inference Protocol is so."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import jsonschema
import pytest

from loadtests.local_service import LocalService
from serving.__main__ import main
from serving.http_reference import markdown
from tests.conftest import PAIR, ROOT

PIXELS = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}


@pytest.fixture(scope="module")
def document(service: LocalService) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{service.url}/docs.json").json()
    return found


def test_the_reference_is_what_the_command_prints(service: LocalService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "--url", service.url]) == 0
    printed = capsys.readouterr().out
    told = "put what `python -m serving reference` prints of the shipped pair into docs/http.md"
    assert (ROOT / "docs" / "http.md").read_text() == printed, told


def test_a_service_that_is_not_there_has_no_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "--url", "http://127.0.0.1:9"]) == 2
    assert "http://127.0.0.1:9" in capsys.readouterr().err


def test_every_answer_of_the_protocol_is_as_it_is_described(service: LocalService, document: dict[str, Any]) -> None:
    version = httpx.get(f"{service.url}/v2/models/{PAIR[0]}").json()["versions"][0]
    paths = [path for path in document["paths"] if path.startswith("/v2")]
    assert len(paths) == 14
    for path in paths:
        url = service.url + path.format(variant=PAIR[0], version=version)
        posts = path.endswith("/infer")
        answer = httpx.post(url, json={"inputs": [PIXELS]}) if posts else httpx.get(url)
        assert answer.status_code == 200, path
        described = document["paths"][path]["post" if posts else "get"]["responses"]["200"]
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": document["components"]})
        assert answer.json().keys() <= properties(document, schema).keys()


def test_a_refusal_of_the_protocol_is_as_it_is_described(service: LocalService, document: dict[str, Any]) -> None:
    path = "/v2/models/{variant}/infer"
    for content, variant, status in (({"inputs": []}, PAIR[0], 400), ({"inputs": [PIXELS]}, "another", 404)):
        answer = httpx.post(service.url + path.format(variant=variant), json=content)
        assert answer.status_code == status
        schema = document["paths"][path]["post"]["responses"][str(status)]["content"]["application/json"]["schema"]
        assert answer.json().keys() == properties(document, schema).keys()


def properties(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
    return found


def test_every_form_that_a_schema_has_is_told_in_words(document: dict[str, Any]) -> None:
    shown = markdown(document)
    assert "| `engine` | [Engine](#engine) or null |" in shown
    assert "`images`: list of file" in shown
    assert "| `index` | integer |" in shown
    assert "| `probability` | number, 0 to 1 |" in shown
    assert "{'" not in shown
