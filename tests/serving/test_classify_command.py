"""The client and its command line, against a real service."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadtests.local_service import LocalService
from models.pixels import FORMATS, read_pixels
from models.spec import CIFAR_PREPROCESSING
from serving import classify_command
from serving.__main__ import main
from serving.client import Client, ClientError, RefusedError, UnreachableError
from serving.keys import Keys, Scope, new_key
from serving.predictions import most_probable
from tests.conftest import PAIR, ROOT


def classify(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "classify", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def folder(photographs: Path, tmp_path: Path) -> Path:
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        shutil.copy(photographs / name, tmp_path)
    return tmp_path


def test_both_forms_see_the_same(service: LocalService, photographs: Path) -> None:
    encoded = (photographs / "chelsea.png").read_bytes()
    with Client(service.url) as client:
        raw = client.classify(encoded, PAIR[1], top_k=10)["predictions"]
        pixels = read_pixels(io.BytesIO(encoded), CIFAR_PREPROCESSING)
        logits = client.infer(np.stack([pixels, 255 - pixels]), PAIR[1])
        (entry,) = [each for each in client.variants() if each["variant"] == PAIR[1]]
    assert logits.shape == (2, 10)
    tensors = most_probable(logits[0], entry["labels"], 10)
    assert [each["label"] for each in raw] == [each["label"] for each in tensors]
    assert [each["probability"] for each in raw] == pytest.approx([each["probability"] for each in tensors], abs=2e-6)


def test_a_batch_keeps_the_order_and_the_errors(service: LocalService, photographs: Path) -> None:
    cat = (photographs / "chelsea.png").read_bytes()
    with Client(service.url) as client:
        first, second = client.classify_batch([("cat", cat), ("text", b"no image")], top_k=1)
    assert first["classification"] is not None
    assert first["classification"]["predictions"][0]["label"] == "cat"
    assert second["status"] == 400
    assert second["name"] == "text"


def test_a_refusal_says_what_is_accepted(service: LocalService) -> None:
    with (
        Client(service.url) as client,
        pytest.raises(RefusedError, match=r"404 unknown_variant.*resnet20-preact") as info,
    ):
        client.classify(b"anything", "resnet99")
    assert info.value.status == 404


def test_what_is_accepted_is_told_once(service: LocalService) -> None:
    with Client(service.url) as client, pytest.raises(RefusedError) as info:
        client.classify(b"no image")
    assert str(info.value).count("accepted: ") == 1
    assert info.value.accepted == FORMATS


@pytest.mark.parametrize("path", ["/path/cat.png", Path("cat.png"), "x" * 10**6])
def test_a_path_is_not_sent_as_an_image(path: Any) -> None:
    with Client("http://127.0.0.1:1") as client:
        for ask in (lambda: client.classify(path), lambda: client.classify_batch([("cat", path)])):
            with pytest.raises(TypeError, match=r"found .*; those of a file: Path\(\.\.\.\)\.read_bytes\(\)$") as info:
                ask()
            assert len(str(info.value)) < 250


def test_help_tells_each_default_once_and_none_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["classify", "--help"])
    told = re.findall(r"\(default: ([^)]*)\)", " ".join(capsys.readouterr().out.split()))
    assert told == ["http://localhost:3000", "whom the service chooses", "5", "30.0"]


@pytest.mark.parametrize(("option", "value"), [("--timeout", "nan"), ("--timeout", "inf"), ("--top-k", "0")])
def test_numbers_that_make_no_sense_are_refused_as_they_are_read(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["classify", "any.png", option, value])
    assert ended.value.code == 2
    assert f"argument {option}: found {value}, expected a number above 0" in capsys.readouterr().err


def test_a_key_for_tensors_has_both_scopes_as_help_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["classify", "--help"])
    assert "a key that has the scope observe beside predict" in " ".join(capsys.readouterr().out.split())
    key, line = new_key(Scope.PREDICT, "any")
    path = tmp_path / "keys"
    path.write_text(f"{line}\n{line.replace(Scope.PREDICT, Scope.OBSERVE, 1)}\n")
    keys = Keys(path)
    for scope in Scope:
        keys.admit(key, scope)


def test_nobody_there_is_told_with_the_next_command(port: int) -> None:
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(UnreachableError, match="make serve"):
        client.variants()


@pytest.mark.parametrize("content", [b"<html>", b"{}"])
def test_what_is_no_answer_of_ours_is_told_as_such(content: bytes) -> None:
    """A proxy's page may come with 200 as well."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy,
        Client(f"http://127.0.0.1:{proxy.server_port}") as client,
    ):
        Thread(target=proxy.serve_forever).start()
        for ask in (
            client.variants,
            lambda: client.classify(b"any"),
            lambda: client.infer(np.zeros((1, 1, 1, 3), np.uint8), PAIR[0]),
        ):
            with pytest.raises(RefusedError, match="200 no_answer_of_ours"):
                ask()
        proxy.shutdown()


def test_a_service_that_is_lost_midway_leaves_what_was_seen(
    service: LocalService, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bytes] = []
    classify_once = Client.classify

    def lose(client: Client, encoded: bytes, *arguments: Any) -> Any:
        asked.append(encoded)
        if len(asked) > 1:
            raise UnreachableError("gone")
        return classify_once(client, encoded, *arguments)

    monkeypatch.setattr(Client, "classify", lose)
    monkeypatch.setattr(classify_command, "AT_ONCE", 1)
    assert main(["classify", str(folder), "--url", service.url]) == 1
    assert "gone" in capsys.readouterr().err


def test_what_is_no_url_is_told_how_one_looks() -> None:
    with pytest.raises(ClientError, match=r"^localhost:3000: .* expected such as http://localhost:3000$"):
        Client("localhost:3000")


def test_a_folder_becomes_a_line_of_json_each(service: LocalService, folder: Path) -> None:
    done = classify(str(folder), "--url", service.url, "--json", "--top-k", "2", "--variant", PAIR[0])
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(each["image"]).name for each in found] == ["chelsea.png", "coffee.png", "rocket.jpg"]
    assert found[0]["predictions"][0]["label"] == "cat"
    assert {each["variant"] for each in found} == {PAIR[0]}
    assert {len(each["predictions"]) for each in found} == {2}


@pytest.mark.parametrize("form", [[], ["--tensors"]])
def test_one_bad_image_does_not_keep_the_others_from_being_seen(
    service: LocalService, folder: Path, form: list[str]
) -> None:
    bad = folder / "[bold]broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    done = classify(str(folder), "--url", service.url, "--variant", PAIR[1], *form)
    assert done.returncode == 1
    assert "cat" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"{bad}: ")]  # whole, however long it is
    assert line.endswith("PPM")
    assert "Traceback" not in done.stderr


def test_exit_status_2_where_nothing_was_classified(service: LocalService, port: int, tmp_path: Path) -> None:
    cases = {
        "no such file": [str(tmp_path / "cat.png"), "--url", service.url],
        "no image in this folder": [str(tmp_path), "--url", service.url],
        "make serve": [str(ROOT / "README.md"), "--url", f"http://127.0.0.1:{port}"],
        "served there: resnet20-postact": [str(ROOT / "README.md"), "--url", service.url, "--tensors"],
        "not_an_image": [str(ROOT / "README.md"), "--url", service.url],
    }
    for said, arguments in cases.items():
        done = classify(*arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_who_has_read_enough_sees_no_traceback(service: LocalService, folder: Path, form: list[str]) -> None:
    """As `head` closes the pipe."""
    command = [sys.executable, "-m", "serving", "classify", str(folder), "--url", service.url, *form]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, b"Traceback" in said) == (1, False), said


def test_a_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLIGHT_API_KEY", "secret")
    with Client("http://127.0.0.1:1") as client:
        assert client.http.headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("key", ["se cret", "secret\n", "schl\u00fcssel"])
def test_what_can_be_no_key_is_said_and_not_shown(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFLIGHT_API_KEY", key)
    assert main(["classify", __file__]) == 2
    said = capsys.readouterr().err
    assert "the key (PREFLIGHT_API_KEY) holds" in said
    assert key not in said


def test_transparent_pictures_are_seen_alike(service: LocalService) -> None:
    """Decoding here and there is one function."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8), "RGBA").save(file, "PNG")
    with Client(service.url) as client:
        raw = client.classify(file.getvalue(), PAIR[0], 1)["predictions"][0]
        logits = client.infer(read_pixels(io.BytesIO(file.getvalue()), CIFAR_PREPROCESSING)[np.newaxis], PAIR[0])
    assert raw["index"] == int(logits[0].argmax())
