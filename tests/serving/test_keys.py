"""Who has no key is let in nowhere but to health checks, and what a file of keys says is true within a second."""

from __future__ import annotations

import hmac
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import jsonschema
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from loadtests.local_service import ServiceError, local_service
from serving import keys
from serving.__main__ import main
from serving.http_api import HttpApi
from serving.keys import Keys, KeysError, Scope, new_key, presented_in, read_keys
from tests.conftest import PAIR, ROOT
from tests.serving.test_http_api import encoded, opening


@pytest.fixture
def made(tmp_path: Path) -> dict[Scope, str]:
    """A key of each scope; the file is `keys` in `tmp_path`."""
    pairs = {scope: new_key(scope, f"{scope}-user") for scope in Scope}
    lines = ["# who may come in", "", *(line for _, line in pairs.values())]
    (tmp_path / "keys").write_text("\n".join(lines))
    return {scope: key for scope, (key, _) in pairs.items()}


@pytest.fixture
def client(made: dict[Scope, str], tmp_path: Path, exported_pair: tuple[str, str]) -> Iterator[TestClient]:
    with opening(exported_pair, Keys(tmp_path / "keys")) as opened:
        yield TestClient(HttpApi(PlainTextResponse("BentoML's own"), opened))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


PATHS = [
    ("POST", "/classify", Scope.PREDICT),
    ("POST", "/explain", Scope.PREDICT),
    ("GET", f"/v2/models/{PAIR[0]}", Scope.PREDICT),
    ("GET", "/v2", Scope.PREDICT),
    ("GET", "/variants", Scope.OBSERVE),
    ("GET", "/metrics", Scope.OBSERVE),
    ("GET", "/metrics/", Scope.OBSERVE),
    ("GET", "/docs.json", Scope.OBSERVE),
]


@pytest.mark.parametrize(("method", "path", "scope"), PATHS)
def test_each_path_takes_its_own_key_alone(
    client: TestClient, made: dict[Scope, str], method: str, path: str, scope: Scope
) -> None:
    def status(headers: Any) -> int:
        content = encoded() if method == "POST" else None
        return int(client.request(method, path, content=content, headers=headers).status_code)

    (other,) = set(Scope) - {scope}
    assert status({}) == 401
    assert status(bearer("wrong")) == 401
    assert status(bearer("")) == 401
    assert status({"authorization": "Bearer ключ".encode()}) == 401
    assert status({"authorization": f"Basic {made[scope]}"}) == 401
    assert status(bearer(made[other])) == 403
    assert status(bearer(made[scope])) == 200
    assert status({"x-api-key": made[scope]}) == 200


def test_a_refusal_says_what_is_accepted_and_nothing_of_the_keys(client: TestClient, made: dict[Scope, str]) -> None:
    answer = client.get("/variants", headers=bearer("wrong"))
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == "unauthorised"
    assert answer.json()["accepted"] == ["Authorization: Bearer KEY", "X-API-Key: KEY"]
    assert "wrong" not in answer.text
    assert list(client.get("/v2", headers=bearer("wrong")).json()) == ["error"]


@pytest.mark.parametrize(
    "path", ["/", "/ui/", "/ui/page.js", "/v2/health/live", "/v2/health/ready", "/livez", "/readyz"]
)
def test_health_checks_and_the_page_need_no_key(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_what_refuses_a_request_by_its_head_is_described_for_every_route(
    client: TestClient, made: dict[Scope, str]
) -> None:
    described = client.get("/docs.json", headers=bearer(made[Scope.OBSERVE])).json()
    version = client.get(f"/v2/models/{PAIR[0]}", headers=bearer(made[Scope.PREDICT])).json()["versions"][0]
    sent: list[dict[str, str]] = [{}, bearer("wrong"), *(bearer(key) for key in made.values())]
    sent += [each | {"cookie": "a" * 20_000} for each in sent] + [each | {"x-request-timeout-ms": "x"} for each in sent]
    seen = set()
    for path, item in described["paths"].items():
        for method in {"get", "post"} & item.keys():
            url = path.format(variant=PAIR[0], version=version)
            answers = [client.request(verb, url, headers=each) for verb in (method, "DELETE") for each in sent]
            for answer in answers:
                assert str(answer.status_code) in item[method]["responses"], (method, path, answer.status_code)
                found = item[method]["responses"][str(answer.status_code)]
                assert all(name in answer.headers for name in found["headers"])
                if schema := found["content"].get("application/json", {}).get("schema"):
                    jsonschema.validate(answer.json(), schema | {"components": described["components"]})
                seen.add(answer.status_code)
            assert ("security" in item[method]) == any(answer.status_code == 401 for answer in answers), path
    assert seen >= {200, 400, 401, 403, 405, 431}


def test_a_body_is_not_read_before_the_key_is(client: TestClient) -> None:
    assert client.post("/classify", content=bytes(30 << 20)).status_code == 401


def test_the_file_is_read_again_when_it_changes(
    made: dict[Scope, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CHECKED_EVERY_S", 0.0)
    path = tmp_path / "keys"
    known = Keys(path)
    known.admit(made[Scope.PREDICT], Scope.PREDICT)
    key, line = new_key(Scope.PREDICT, "new")
    path.write_text(line)
    known.admit(key, Scope.PREDICT)
    with pytest.raises(keys.RequestError):
        known.admit(made[Scope.PREDICT], Scope.PREDICT)
    path.write_text("no key")
    known.admit(key, Scope.PREDICT)  # who was let in still is
    path.unlink()
    known.admit(key, Scope.PREDICT)
    again, line = new_key(Scope.OBSERVE, "")
    path.write_text(line)
    known.admit(again, Scope.OBSERVE)


def test_a_file_that_could_not_be_read_is_tried_again_though_it_looks_the_same(
    made: dict[Scope, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where only its rights are repaired, or files could be opened no more: a key that was taken out stays out."""
    monkeypatch.setattr(keys, "CHECKED_EVERY_S", 0.0)
    path = tmp_path / "keys"
    known = Keys(path)
    key, line = new_key(Scope.PREDICT, "new")
    path.write_text(line)

    def unreadable(path: Path) -> Any:
        raise KeysError(f"{path}: cannot be read (Permission denied)")

    with monkeypatch.context() as patched:
        patched.setattr(keys, "read_keys", unreadable)
        known.admit(made[Scope.PREDICT], Scope.PREDICT)
    known.admit(key, Scope.PREDICT)
    with pytest.raises(keys.RequestError):
        known.admit(made[Scope.PREDICT], Scope.PREDICT)


def test_the_command_makes_no_line_that_the_file_may_not_have() -> None:
    with pytest.raises(SystemExit):
        main(["key", "--name", "two names"])


def test_every_key_is_compared_in_constant_time(
    made: dict[Scope, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever matches, and whether one does: as many comparisons, all by `hmac.compare_digest`, of digests."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(keys, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare)}))
    known = read_keys(tmp_path / "keys")
    counts = []
    for presented in (*made.values(), "wrong", ""):
        compared.clear()
        keys.matching(known, presented)
        counts.append(len(compared))
        assert {len(each) for pair in compared for each in pair} == {32}
    assert counts == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no keys in it; make one: python -m serving key"),
        ("predict secret", "line 1: expected `SCOPE SHA256 [NAME]`, the scope predict or observe"),
        (f"admin {'0' * 64}", "line 1: expected"),
        (f"predict {'0' * 63}", "line 1: expected"),
        (f"# all\npredict {'0' * 64} two names", "line 2: expected"),
    ],
)
def test_a_file_that_is_none_is_told_its_line_without_its_content(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(KeysError) as caught:
        read_keys(path)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(KeysError, match="a file of keys is expected"):
        read_keys(tmp_path / "keys")


def test_keys_come_by_either_header() -> None:
    assert presented_in({b"authorization": b"bearer  abc "}) == "abc"
    assert presented_in({b"x-api-key": b"abc"}) == "abc"
    assert presented_in({b"authorization": b"Basic abc", b"x-api-key": b"def"}) == "def"
    assert presented_in({b"authorization": b"Bearer"}) is None
    assert presented_in({}) is None


def test_a_real_service_asks_for_keys_and_does_not_start_without_their_file(
    exported_pair: tuple[str, str], tmp_path: Path
) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "serving", "key", "--scope", "observe", "--name", "prometheus"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (tmp_path / "keys").write_text(made.stderr.splitlines()[-1])
    environment = {"SERVING_MODELS": exported_pair[0], "SERVING_API_KEYS_FILE": str(tmp_path / "keys")}
    with local_service(environment=environment, folder=ROOT) as running:
        for path in ("/metrics", "/variants"):
            assert httpx.get(f"{running.url}{path}").status_code == 401
            assert httpx.get(f"{running.url}{path}", headers=bearer(made.stdout.strip())).status_code == 200
        assert httpx.post(f"{running.url}/classify", headers=bearer(made.stdout.strip())).status_code == 403
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        assert made.stdout.strip() not in running.log()
    (tmp_path / "keys").unlink()
    with pytest.raises(ServiceError, match="keys: cannot be read"), local_service(environment=environment, folder=ROOT):
        pass
