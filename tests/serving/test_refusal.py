"""Who is refused by the head of a request is refused as any other, and only while others are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from loadtests.local_service import LocalService, local_service
from serving.http_api import HttpApi
from serving.keys import Keys, Scope, new_key
from serving.opened import Opened
from tests.conftest import PAIR, ROOT
from tests.serving.test_http_api import encoded, opening
from tests.serving.test_limits import connect
from tests.serving.test_protocol import one_answer, post


@pytest.fixture
def opened(exported_pair: tuple[str, str]) -> Iterator[Opened]:
    with opening(exported_pair) as opened:
        yield opened


@pytest.fixture
def api(opened: Opened) -> HttpApi:
    """Full, and it has said so to somebody."""
    found = HttpApi(PlainTextResponse(""), opened)
    opened.in_flight = opened.settings.max_in_flight
    assert found.refusal(scope()) is None  # nobody was refused yet
    assert TestClient(found).post("/classify", content=encoded()).status_code == 429
    return found


def scope(
    path: str = "/classify", query: bytes = b"", method: str = "POST", headers: dict[str, str] | None = None
) -> dict[str, Any]:
    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return {"type": "http", "method": method, "path": path, "query_string": query, "headers": given}


def said(response: Response | None) -> tuple[int, bytes, dict[str, str]]:
    assert response is not None
    return (
        response.status_code,
        bytes(response.body),
        {k: v for k, v in response.headers.items() if k != "x-request-id"},
    )


def test_it_is_the_answer_that_the_body_would_have_got(api: HttpApi, opened: Opened) -> None:
    usual = TestClient(api).post("/classify", content=encoded(), headers={"x-request-id": "mine"})
    before = opened.answered
    early = api.refusal(scope(headers={"x-request-id": "mine"}))
    assert said(early) == (429, usual.content, {k: v for k, v in usual.headers.items() if k != "x-request-id"})
    assert early is not None
    assert early.headers["x-request-id"] == "mine"
    assert opened.answered == before + 1


def test_a_draining_worker_says_that_it_closes(api: HttpApi, opened: Opened) -> None:
    opened.draining = True
    assert said(api.refusal(scope()))[2]["connection"] == "close"


@pytest.mark.parametrize(
    "other",
    [
        scope("/classify/batch"), scope("/explain"), scope("/v2/models/any/infer"), scope(method="GET"),
        scope(query=b"variant=none"), scope(query=b"top_k=0"), scope(query=b"any=1"),
        scope(headers={"x-request-timeout-ms": "soon"}), scope(headers={"x-long": "a" * 20_000}),
    ],
)  # fmt: skip
def test_what_is_to_be_told_something_else_is_asked_in(api: HttpApi, other: dict[str, Any]) -> None:
    assert api.refusal(scope(query=f"variant={PAIR[1]}".encode())) is not None
    assert api.refusal(other) is None


def test_where_a_lot_decides_it_is_drawn_once(exported_pair: tuple[str, str]) -> None:
    with opening(exported_pair, split={PAIR[0]: 50, PAIR[1]: 50}) as opened:
        api = HttpApi(PlainTextResponse(""), opened)
        opened.in_flight = opened.settings.max_in_flight
        assert TestClient(api).post("/classify", content=encoded()).status_code == 429
        assert api.refusal(scope()) is None
        assert api.refusal(scope(headers={"x-client-key": ""})) is None
        assert api.refusal(scope(headers={"x-client-key": "mine"})) is not None
        assert api.refusal(scope(query=f"variant={PAIR[0]}".encode())) is not None


def test_who_finds_room_is_asked_in(api: HttpApi, opened: Opened) -> None:
    opened.in_flight -= 1
    assert api.refusal(scope()) is None


def test_where_nobody_was_refused_lately_nobody_is_looked_at(api: HttpApi) -> None:
    api.refusing_until -= 10
    assert api.refusal(scope()) is None


def test_before_the_models_are_open_it_is_not_the_load_that_keeps_people_out(api: HttpApi, opened: Opened) -> None:
    classifier, opened.classifier = opened.classifier, None
    assert api.refusal(scope()) is None
    opened.classifier = classifier


def test_who_has_no_key_hears_of_that_alone(exported_pair: tuple[str, str], tmp_path: Path) -> None:
    key, line = new_key(Scope.PREDICT, "somebody")
    (tmp_path / "keys").write_text(line)
    with opening(exported_pair, Keys(tmp_path / "keys")) as opened:
        api = HttpApi(PlainTextResponse(""), opened)
        opened.in_flight = opened.settings.max_in_flight
        known = {"authorization": f"Bearer {key}"}
        assert TestClient(api).post("/classify", content=encoded(), headers=known).status_code == 429
        assert said(api.refusal(scope(headers=known)))[0] == 429
        assert api.refusal(scope()) is None
        assert api.refusal(scope(headers={"authorization": "Bearer another"})) is None


@pytest.fixture(scope="module")
def narrow(exported_pair: tuple[str, str]) -> Iterator[LocalService]:
    environment = {"SERVING_MODELS": exported_pair[0], "SERVING_MAX_IN_FLIGHT": "1"}
    with local_service(environment=environment, folder=ROOT) as running:
        yield running


def test_under_overload_every_request_is_answered_over_connections_that_are_kept(narrow: LocalService) -> None:
    def user(number: int) -> list[tuple[bytes, bytes]]:
        with connect(narrow) as connection:
            answers = []
            for _ in range(25):
                request = post(x_request_id=f"user-{number}")
                connection.sendall(request[:-500])
                connection.sendall(request[-500:])
                answers.append(one_answer(connection))
            return answers

    with ThreadPoolExecutor(8) as pool:
        answers = [each for found in pool.map(user, range(8)) for each in found]
    statuses = Counter(head[9:12] for head, _ in answers)
    assert set(statuses) == {b"200", b"429"}
    assert statuses.total() == 200
    for head, body in answers:
        assert (b"retry-after: 1" in head, b'"error":"overloaded"' in body) == (head[9:12] == b"429",) * 2
        assert b"x-request-id: user-" in head
