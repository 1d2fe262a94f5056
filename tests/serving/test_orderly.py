"""What a connection may hold besides one request after the other: offers of an upgrade, trailers, requests ahead."""

from __future__ import annotations

import json

import pytest

from loadtests.local_service import LocalService
from tests.serving.test_limits import answer, connect
from tests.serving.test_protocol import BODY, one_answer, post

OFFER = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQAoAAAAAIAAAAA"}
HEAD, PLAIN = len(post(**OFFER)) - len(BODY), post()


@pytest.mark.parametrize("cut", [0, 40, HEAD - 2, HEAD, HEAD + 100])
def test_a_request_that_offers_an_upgrade_is_one_like_others(service: LocalService, cut: int) -> None:
    """Java's client offers HTTP/2 with its first request."""
    request = post(**OFFER)
    with connect(service) as connection:
        connection.sendall(PLAIN)
        expected = one_answer(connection)[1]
        for piece in filter(None, (request[:cut], request[cut:] + PLAIN)):
            connection.sendall(piece)
        found = [one_answer(connection) for _ in range(2)]
    assert [head.split()[1] for head, _ in found] == [b"200", b"200"]
    assert all(json.loads(body)["predictions"] == json.loads(expected)["predictions"] for _, body in found)


def test_the_body_of_such_a_request_is_no_request(service: LocalService) -> None:
    inner = b"GET /variants HTTP/1.1\r\nhost: any\r\nx-request-id: SMUGGLED\r\n\r\n"
    request = post(body=inner, **OFFER)
    with connect(service) as connection:
        connection.sendall(request[: -len(inner)])
        connection.sendall(inner + post(connection="close"))
        found = answer(connection)
    assert b"SMUGGLED" not in found
    assert found.startswith(b"HTTP/1.1 400 ")
    assert found.count(b"HTTP/1.1 ") == 2


def test_however_many_offer_one_in_one_piece_each_is_answered(service: LocalService) -> None:
    offer = b"GET /livez HTTP/1.1\r\nhost: any\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    with connect(service) as connection:
        connection.sendall(offer * 1500 + post(connection="close"))
        assert answer(connection).count(b"HTTP/1.1 200 ") == 1501


def test_a_trailer_is_no_header(service: LocalService) -> None:
    pieces = b"%x\r\n%b\r\n0\r\nx-request-id: TRAILER\r\ncontent-type: text/plain\r\n\r\n" % (len(BODY), BODY)
    with connect(service) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nhost: any\r\ntransfer-encoding: chunked\r\n\r\n" + pieces)
        head, _ = one_answer(connection)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"TRAILER" not in head


def test_what_cannot_be_read_behind_a_request_does_not_take_its_answer(service: LocalService) -> None:
    """As where a client declares a body shorter than it sends."""
    with connect(service) as connection:
        connection.sendall(post() + b"\x00garbage\r\n\r\n")
        found = answer(connection)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.count(b"HTTP/1.1 ") == 1
    assert json.loads(found.partition(b"\r\n\r\n")[2])["predictions"]
