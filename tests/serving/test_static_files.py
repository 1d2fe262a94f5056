"""The page's files: complete, of the right kinds, kept by browsers as long as they stay the same, and bound to us."""

from __future__ import annotations

import re

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.http_api import HttpApi
from serving.metrics import metrics
from serving.opened import Opened
from serving.static_files import FOLDER

NAMES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture
def client() -> TestClient:
    """A worker that has opened nothing: the page is there all the same."""
    return TestClient(HttpApi(PlainTextResponse("BentoML's own"), Opened()))


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/"])
def test_the_page_is_at_ui_and_the_root_leads_there(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.url.path == "/ui/"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_all_that_the_page_refers_to_is_there_and_ours(client: TestClient) -> None:
    text = {name: client.get(f"/ui/{name}").text for name in NAMES}
    named = re.findall(r'(?:href|src)="([^"./]+\.\w+)"', text["index.html"])
    named += [name for script in text.values() for name in re.findall(r'from "\./(.+?)"', script)]
    assert {"page.js", "page.css", "icon.svg", "heat_map.js", "live.js"} <= set(named) <= set(NAMES)
    for name, content in text.items():
        elsewhere = re.findall(r"\w+://[^\s\"'`>]+", content)
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, name


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_kept_until_it_changes_and_loads_nothing_from_elsewhere(client: TestClient, name: str) -> None:
    answer = client.get(f"/ui/{name}")
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy.pop("img-src") == "'self' blob: data:"
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get(f"/ui/{name}", headers={"if-none-match": f'"other", W/{answer.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert client.get(f"/ui/{name}", headers={"if-none-match": '"other"'}).status_code == 200


def test_nothing_else_is_below_it(client: TestClient) -> None:
    for path in ("/ui/absent.js", "/ui/..%2fconfig.py", "/ui/%2e%2e/config.py"):
        assert client.get(path).status_code == 404
    assert client.post("/ui/page.js").status_code == 405
    assert ("/ui", 404) in {labels for counter, labels in metrics().counts if counter is metrics().requests}
