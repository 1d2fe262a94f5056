"""What passes at once keeps HTTP's rules: over real connections, to a service of the session's."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from loadtests.local_service import LocalService, local_service
from tests.conftest import ROOT
from tests.serving.test_http_api import encoded, one_bit_png
from tests.serving.test_limits import answer, connect

BODY = encoded("JPEG")


def post(path: str = "/classify", version: str = "1.1", body: bytes = BODY, **headers: str) -> bytes:
    given = {"host": "any", "content-length": str(len(body))} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


def one_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body, by the length that is declared; what comes later stays where it is."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += some(connection, 1)
    head, _, body = found.partition(b"\r\n\r\n")
    (length,) = (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += some(connection, length - len(body))
    return head, body


def some(connection: socket.socket, most: int) -> bytes:
    piece = connection.recv(most)
    assert piece, "closed before its end"
    return piece


def test_who_is_refused_while_it_sends_reads_why(service: LocalService) -> None:
    """Its connection is to be closed, as Python's urllib has it; closed on what it sends, the answer would be lost."""
    headers = {"content-type": "application/octet-stream"}
    request = urllib.request.Request(f"{service.url}/classify", data=bytes(24 << 20), headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert (caught.value.code, json.load(caught.value)["error"]) == (413, "too_many_bytes")


def test_answers_come_in_the_order_of_requests_sent_ahead(service: LocalService) -> None:
    ids = [b"first", b"second", b"third"]
    with connect(service) as connection:
        connection.sendall(b"".join(post(x_request_id=each.decode()) for each in ids))
        heads = [one_answer(connection)[0] for _ in ids]
    assert all(head.startswith(b"HTTP/1.1 200 OK\r\n") for head in heads)
    assert [head.rpartition(b"x-request-id: ")[2] for head in heads] == ids


@pytest.mark.parametrize(("version", "headers"), [("1.0", {}), ("1.1", {"connection": "close"})])
def test_who_wants_it_closed_is_told_once_that_it_is(
    service: LocalService, version: str, headers: dict[str, str]
) -> None:
    with connect(service) as connection:
        connection.sendall(post(version=version, **headers))
        found = answer(connection)
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert found.partition(b"\r\n\r\n")[0].lower().count(b"connection: close") == 1


def test_an_answer_to_head_has_no_body_and_the_next_is_understood(service: LocalService) -> None:
    with connect(service) as connection:
        connection.sendall(b"HEAD /variants HTTP/1.1\r\nhost: any\r\n\r\n")
        head = connection.recv(65536)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert head.endswith(b"\r\n\r\n")
        connection.sendall(post())
        assert one_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


def test_who_waits_to_be_asked_for_the_body_is_asked(service: LocalService) -> None:
    request = post(expect="100-continue")
    with connect(service) as connection:
        connection.sendall(request[: -len(BODY)])
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert one_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


def test_a_body_of_declared_pieces_is_put_together(service: LocalService) -> None:
    half = len(BODY) // 2
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (BODY[:half], BODY[half:], b""))
    head = b"POST /classify HTTP/1.1\r\nhost: any\r\ntransfer-encoding: chunked\r\n\r\n"
    with connect(service) as connection:
        connection.sendall(post())
        _, whole = one_answer(connection)
        connection.sendall(head + pieces)
        _, in_pieces = one_answer(connection)
    assert whole.partition(b'"timings_ms"')[0] == in_pieces.partition(b'"timings_ms"')[0]


def test_a_refusal_before_the_body_has_come_leaves_the_connection_usable(service: LocalService) -> None:
    with connect(service) as connection:
        request = post("/classify?variant=other")
        connection.sendall(request[: -len(BODY)])
        assert one_answer(connection)[0].startswith(b"HTTP/1.1 404 ")
        connection.sendall(BODY + post())
        assert one_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


def counted(service: LocalService, status: int) -> float:
    """So many requests to /classify it has answered by it."""
    line = f'preflight_requests_total{{endpoint="/classify",status="{status}"}} '
    metrics = urllib.request.urlopen(f"{service.url}/metrics", timeout=60).read().decode()
    return sum(float(each.removeprefix(line)) for each in metrics.splitlines() if each.startswith(line))


@pytest.mark.parametrize("padding", [0, 1 << 20], ids=["whole", "in pieces"])
def test_who_hangs_up_is_not_counted_as_answered_however_soon_the_answer_would_have_come(
    service: LocalService, padding: int
) -> None:
    before, number = (counted(service, 200), counted(service, 499)), 5
    image = one_bit_png(2000, 2000) + bytes(padding)  # it takes longer to read than its end takes to come
    for _ in range(number):
        with connect(service) as connection:
            connection.sendall(post(body=image), socket.MSG_MORE)  # and its end with it
    ends = time.monotonic() + 20
    while counted(service, 200) + counted(service, 499) < sum(before) + number:
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert (counted(service, 200), counted(service, 499)) == (before[0], before[1] + number)


@pytest.fixture(scope="module")
def strict(exported_pair: tuple[str, str]) -> Iterator[LocalService]:
    environment = {
        "SERVING_MODELS": exported_pair[0], "SERVING_MAX_IMAGE_BYTES": "4000", "SERVING_MAX_IMAGE_PIXELS": "100",
    }  # fmt: skip
    with local_service(environment=environment, folder=ROOT) as running:
        yield running


def test_a_body_that_is_there_at_once_is_measured_as_well(strict: LocalService) -> None:
    large = b"\xff" * 4001
    head = b"POST /classify HTTP/1.1\r\nhost: any\r\ntransfer-encoding: chunked\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large))
        head, body = one_answer(connection)
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"more than 4000 bytes" in body


def test_who_is_alone_may_send_no_more_pixels_than_others(strict: LocalService) -> None:
    with connect(strict) as connection:
        for _ in range(3):
            connection.sendall(post())
            head, body = one_answer(connection)
            assert head.startswith(b"HTTP/1.1 413 ")
            assert b"too_many_pixels" in body
