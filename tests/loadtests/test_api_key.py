"""A service that asks for keys is measured by who has one, and nothing that is written has it in it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import overload
from loadtests.__main__ import main
from loadtests.local_service import LocalService, local_service
from loadtests.results import Results, Target
from loadtests.scenario import payloads
from loadtests.sending import rendered
from loadtests.served import TargetError, served
from serving.client import KEY_VARIABLE
from serving.keys import Scope, new_key
from tests.conftest import PAIR, ROOT
from tests.loadtests.test_locust import locust

Guarded = tuple[LocalService, str, str]


@pytest.fixture(scope="module")
def guarded(exported_pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A service, a key of both scopes, and one that may only look."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    key, line = new_key(Scope.PREDICT, "both")
    observing, observing_line = new_key(Scope.OBSERVE, "looks")
    path.write_text("\n".join([line, line.replace(Scope.PREDICT, Scope.OBSERVE), observing_line]))
    environment = {"SERVING_MODELS": ",".join(exported_pair), "SERVING_API_KEYS_FILE": str(path)}
    with local_service(environment=environment, folder=ROOT) as running:
        yield running, key, observing


def short_run(host: str, out: Path) -> int:
    return main(
        ["run", PAIR[0], "--host", host, "--users", "2", "--turns", "1", "--turn-seconds", "0.3", "--out", str(out)]
    )


def image(folder: Path) -> str:
    path = folder / "image.jpg"
    path.write_bytes(payloads()[0].body)
    return str(path)


def assert_nowhere(key: str, folder: Path, printed: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert key not in printed
    assert not [path for path in files if key.encode() in path.read_bytes()]


def test_who_has_a_key_of_both_scopes_measures(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service, key, _ = guarded
    monkeypatch.setenv(KEY_VARIABLE, key)
    arguments = ["--host", service.url, "--rounds", "1", "--turn-seconds", "0.2", "--out", str(tmp_path / "compare")]
    assert main(["compare", *PAIR, *arguments]) == 0
    arguments = ["--url", f"{service.url}/classify", "--image", image(tmp_path), "--seconds", "1", "--times", "2"]
    arguments += ["--capacity-seconds", "0.5", "--gentle-seconds", "1", "--out", str(tmp_path / "overload.json")]
    assert overload.main(arguments) == 0
    printed = "".join(capsys.readouterr())
    run = locust(service.url, tmp_path / "locust.json", "--users", "2", "--run-time", "1")
    printed += run.communicate(timeout=60)[0]
    assert run.returncode == 0, printed
    for path in (tmp_path / "compare" / "results.json", tmp_path / "locust.json"):
        turns = Results.read(path).turns
        assert sum(turn.recording.answered for turn in turns) > 0
        assert not any(turn.recording.failed for turn in turns)
    assert_nowhere(key, tmp_path, printed + service.log())


@pytest.mark.parametrize(("key", "said"), [("", "401 no API key was sent"), ("wrong", "401 the API key is not known")])
def test_who_has_none_is_told_what_is_needed(
    guarded: Guarded, key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    service, *_ = guarded
    monkeypatch.setenv(KEY_VARIABLE, key)
    assert short_run(service.url, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert f"{service.url}/variants answers {said}" in told
    assert "PREFLIGHT_API_KEY needs a key with both scopes, predict and observe" in told
    assert "make serve" not in told
    assert not (tmp_path / "out").exists()


def test_a_key_that_may_only_look_fails_by_its_scope(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service, _, observing = guarded
    monkeypatch.setenv(KEY_VARIABLE, observing)
    assert short_run(service.url, tmp_path) == 3, "not one was answered"
    (turn,) = Results.read(tmp_path / "results.json").turns
    assert set(turn.recording.failures) == {"403 wrong_scope"}
    arguments = ["--image", image(tmp_path), "--capacity-seconds", "0.3", "--out", str(tmp_path / "overload.json")]
    assert overload.main(["--url", f"{service.url}/classify", *arguments]) == 2
    assert "answers no request: 403 wrong_scope" in capsys.readouterr().err


@pytest.mark.parametrize("held", ["two words", "sécret", "secret\r\nx-other: 1"])
def test_what_is_no_key_is_refused_without_telling_it(
    held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, held)
    assert short_run("http://127.0.0.1:9", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "PREFLIGHT_API_KEY holds" in told
    assert "cret" not in told
    assert "words" not in told


def test_a_request_is_shown_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gevent does of a greenlet's arguments."""
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    request = rendered(payloads()[0], Target("http://a", "b"))
    assert b"\r\nauthorization: Bearer secret\r\n" in request.content
    assert "secret" not in repr(request)


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Sends who asks for variants to another path, and keeps what it was shown there."""

    shown: list[str | None]

    def do_GET(self) -> None:
        if self.path == "/variants":
            self.send_response(302)
            self.send_header("location", "/elsewhere")
        else:
            self.shown.append(self.headers["authorization"])
            self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the name that is overridden
        pass


def test_another_server_is_told_by_its_status_and_gets_no_key_by_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    Elsewhere.shown = []
    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TargetError, match="/variants answers 404 Not Found; expected this project's service there"):
            served(Target(f"http://127.0.0.1:{server.server_port}", "any"))
        server.shutdown()
    assert Elsewhere.shown == [None]
