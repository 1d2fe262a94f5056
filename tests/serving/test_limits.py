"""What a hostile or broken client can make the service hold: headers, slow bytes, silence; over real connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from loadtests.local_service import LocalService, local_service
from serving.http_api import HttpApi
from tests.conftest import ROOT
from tests.serving.test_http_api import encoded, opening

PATIENCE_MS = 300


@pytest.fixture(scope="module")
def impatient(exported_pair: tuple[str, str]) -> Iterator[LocalService]:
    environment = {
        "SERVING_MODELS": exported_pair[0],
        "SERVING_MAX_RECEIVE_MS": str(PATIENCE_MS),
        "SERVING_MAX_HEADER_BYTES": "4096",
    }
    with local_service(environment=environment, folder=ROOT) as running:
        yield running


def connect(service: LocalService) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def flood(connection: socket.socket, piece: bytes, times: int, pause_s: float = 0.0) -> int:
    """How many bytes it got rid of before the other side closed."""
    sent = 0
    for _ in range(times):
        try:
            sent += connection.send(piece)
        except OSError:  # a reset or a broken pipe, as the kernel likes
            break
        time.sleep(pause_s)
    return sent


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def test_a_head_without_end_is_cut_off(impatient: LocalService) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nhost: any\r\nx-long: ")
        assert flood(connection, b"a" * 65536, times=1000) < 20 << 20


def test_many_headers_get_431(impatient: LocalService) -> None:
    headers = {f"x-{index}": "a" * 100 for index in range(60)}
    response = httpx.post(f"{impatient.url}/classify", content=encoded(), headers=headers)
    assert response.status_code == 431
    assert response.json()["error"] == "too_many_header_bytes"
    assert httpx.get(f"{impatient.url}/readyz", headers={"x-any": "a" * 3000}).status_code == 200


def test_a_connection_that_says_nothing_is_closed(impatient: LocalService) -> None:
    with connect(impatient) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_trickles_is_cut_off(impatient: LocalService) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nhost: any\r\nx-slow: ")
        assert flood(connection, b"a", times=500, pause_s=0.02) < 500


def test_a_body_that_trickles_gets_408(impatient: LocalService) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nhost: any\r\ncontent-length: 5000\r\n\r\n12345")
        found = answer(connection)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"slow_body" in found


def test_a_body_that_nobody_reads_is_not_waited_for_either(impatient: LocalService) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /classify?variant=none HTTP/1.1\r\nhost: any\r\ncontent-length: 5000\r\n\r\n12345")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        assert flood(connection, b"a", times=500, pause_s=0.02) < 500


def test_a_connection_that_falls_silent_after_such_a_body_is_closed(impatient: LocalService) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /classify?variant=none HTTP/1.1\r\nhost: any\r\ncontent-length: 9\r\n\r\n12345")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        for piece in (b"67", b"89"):
            connection.sendall(piece)
            time.sleep(0.05)
        assert answer(connection) == b""


def test_a_connection_that_is_kept_serves_on_and_a_head_in_two_pieces_is_one(impatient: LocalService) -> None:
    body = encoded()
    head = f"POST /classify HTTP/1.1\r\nhost: any\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with connect(impatient) as connection:
        for _ in range(3):
            for piece in (head[:30], head[30:], body):
                connection.sendall(piece)
                time.sleep(0.05)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(impatient: LocalService) -> None:
    request = b"GET /livez HTTP/1.1\r\nhost: any\r\n\r\n"
    with connect(impatient) as connection:
        connection.sendall(request * 2 + request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert answer(connection).count(b"HTTP/1.1 200 ") == 3


@pytest.fixture(scope="module")
def client(exported_pair: tuple[str, str]) -> Iterator[TestClient]:
    with opening(exported_pair[:1]) as opened:
        yield TestClient(HttpApi(PlainTextResponse("BentoML's own"), opened))


@pytest.mark.parametrize("path", ["/nothing", "/classify/x", "/static_content/a", "/schema.json", "/v3", "/%00"])
def test_paths_that_are_not_ours_are_404(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["error"]) == (404, "unknown_path")


@pytest.mark.parametrize(
    ("given", "kept"), [("mine-1", True), ("a" * 128, True), ("a" * 129, False), ("with space", False), ("", False)]
)
def test_a_request_id_comes_back_or_is_made(client: TestClient, given: str, kept: bool) -> None:
    found: list[Any] = [client.get("/variants", headers={"x-request-id": given}).headers["x-request-id"]]
    found += [client.post("/classify", content=b"no image").headers["x-request-id"] for _ in range(2)]
    assert (found[0] == given) == kept
    assert len(set(found)) == 3


CHUNKED = b"POST /classify HTTP/1.1\r\nhost: any\r\ntransfer-encoding: chunked\r\n\r\n5\r\n\xff\xd8\xff\xd9\n\r\n0\r\n"


@pytest.mark.parametrize("trailers", [b"a: b\r\n" * 500, b"a" * 4000], ids=["many", "one that is long"])
def test_trailers_without_end_are_cut_off(impatient: LocalService, trailers: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(CHUNKED)
        assert flood(connection, trailers, 5000) < 5000 * len(trailers)


def test_who_sends_nothing_but_empty_lines_after_an_answer_is_closed(impatient: LocalService) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: any\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert flood(connection, b"\r\n", 400, 0.02) < 800


def test_who_reads_nothing_is_left(impatient: LocalService) -> None:
    """It has asked for more than the buffers on the way hold."""
    asked = 400
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = impatient.url.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.settimeout(20)
        connection.sendall(b"GET /docs.json HTTP/1.1\r\nhost: any\r\n\r\n" * asked)
        time.sleep(10 * PATIENCE_MS / 1e3)
        assert answer(connection).count(b"HTTP/1.1 200") < asked


def test_what_comes_before_a_head_in_one_piece_is_no_part_of_it(impatient: LocalService) -> None:
    body = b"\xff" * 60_000
    post = b"POST /classify HTTP/1.1\r\nhost: any\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    get = b"GET /livez HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n"
    with connect(impatient) as connection:
        connection.sendall(post + get[:20])
        time.sleep(PATIENCE_MS / 3e3)
        connection.sendall(get[20:])
        found = answer(connection)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 200 " in found


def test_the_head_of_an_offered_upgrade_is_not_counted_with_its_body(impatient: LocalService) -> None:
    body = b"\xff" * 14_000
    head = b"POST /classify HTTP/1.1\r\nhost: any\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n"
    with connect(impatient) as connection:
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert b"not_an_image" in answer(connection)
