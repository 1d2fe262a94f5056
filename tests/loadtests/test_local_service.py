"""A server of one's own is the one that answers."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from loadtests.local_service import LocalService, held_port


def test_nobody_answers_on_a_held_port_and_nobody_else_is_given_it(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with held_port() as second:
        assert second != port


def test_a_server_listens_on_its_held_port(delaying_server: LocalService) -> None:
    with urllib.request.urlopen(f"{delaying_server.url}/readyz") as response:
        assert response.status == 200
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(delaying_server.url.rsplit(":", 1)[1])))
