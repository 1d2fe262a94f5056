"""One request over a kept connection: sent, answered, and told as an outcome.

Requests are rendered once and written as they are, and httptools parses the answers: a third of the time that a client
takes which builds and parses its messages in Python.
"""

from __future__ import annotations

import errno
import json
import re
import select
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from urllib.parse import urlsplit

import gevent
import gevent.monkey
import gevent.socket
import gevent.ssl
import httptools

from loadtests.api_key import authorization
from loadtests.recording import Outcome
from loadtests.results import Target
from loadtests.scenario import Payload

BLOCK_BYTES = 65536
POLL = gevent.monkey.get_original("select", "poll")  # Locust has gevent's in its place, which lets others run
OWN_LIMITS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS}
TIMINGS = re.compile(rb'"timings_ms":\s*(\{[^{}]*\})')
VERSION = re.compile(rb'"(?:model_)?version":\s*"([^"]*)"')  # of /classify, and of the Open Inference Protocol
ERROR_CODE = re.compile(rb'"error":\s*"(\w+)"')  # a word; sentences differ from answer to answer


@dataclass(frozen=True, slots=True)
class Request:
    """Head and body as they are sent, and what an answer of 200 has to contain, without spaces after colons."""

    content: bytes = field(repr=False)  # a key may be in it
    answered: bytes


def rendered(payload: Payload, target: Target) -> Request:
    """With the key that the environment holds. Raises KeyVariableError."""
    head = [
        f"POST {payload.path.format(variant=target.variant)} HTTP/1.1",
        f"host: {urlsplit(target.host).netloc}",
        f"content-length: {len(payload.body)}",
        *(f"{name}: {value}" for name, value in {**payload.headers, **authorization()}.items()),
    ]
    content = "\r\n".join([*head, "", ""]).encode() + payload.body
    return Request(content, payload.answered.replace("{variant}", target.variant).encode())


class Sender:
    """Connections to one host, as many as there are requests at a time; each is kept for a next request.

    Times are in seconds since `origin`, a moment of time.perf_counter. Nobody waits longer than `patience_s` for an
    answer, connecting included.
    """

    def __init__(self, host: str, *, patience_s: float, origin: float = 0.0) -> None:
        parts = urlsplit(host)
        self.tls = gevent.ssl.create_default_context() if parts.scheme == "https" else None
        self.name, self.port = parts.hostname or "", parts.port or (443 if self.tls else 80)
        self.patience_s, self.origin = patience_s, origin
        self.free: list[Connection] = []
        self.peer: tuple[str, int] | None = None
        self.unreachable_since: float | None = None
        self.unreachable_s = 0.0  # from the first to the last of those attempts to connect that failed on end
        self.limit = ""  # what this process ran out of

    def now(self) -> float:
        return time.perf_counter() - self.origin

    def send(self, request: Request, due_s: float | None = None) -> Outcome:
        """`due_s` is now where it is None. `sent_s` is when a connection was there to write on, or was asked for."""
        sent_s = self.now()
        connection, problem, is_answered = None, f"no answer within {self.patience_s:g} s", False
        try:
            with gevent.Timeout(self.patience_s, False):
                connection = self.kept() or self.connected()
                connection.ask(request.content)
                is_answered = True
        except (OSError, httptools.HttpParserError) as error:
            problem = f"no answer: {type(error).__name__}"
        finally:  # a greenlet that is killed leaves no connection either
            if connection is not None and not (is_answered and connection.is_kept):
                connection.close()
        ended_s, due_s = self.now(), sent_s if due_s is None else due_s
        if connection is None:
            return Outcome(due_s, sent_s, ended_s, 0, problem)
        sent, received = len(request.content), connection.received_bytes
        if not is_answered:
            return Outcome(due_s, sent_s, ended_s, 0, problem, sent, received)
        self.reached()
        status, body = connection.status, b"".join(connection.body)
        if connection.is_kept:
            self.free.append(connection)
        gevent.sleep(0)  # others whose answers came together with this one look at the clock before this one is judged
        problem, version = problem_of(request, status, body), version_of(body)
        return Outcome(due_s, sent_s, ended_s, status, problem, sent, received, timings_of(body), version)

    def kept(self) -> Connection | None:
        """The one used last, so that those which a burst left over go idle and are closed by the server."""
        while self.free:
            if (connection := self.free.pop()).is_open():
                return connection
            connection.close()
        return None

    def connected(self) -> Connection:
        """Raises OSError."""
        try:
            made = gevent.socket.create_connection(self.peer or (self.name, self.port))
        except OSError as error:
            if error.errno in OWN_LIMITS:
                self.limit = error.strerror or type(error).__name__
            else:
                self.unreachable_since = self.now() if self.unreachable_since is None else self.unreachable_since
                self.unreachable_s = self.now() - self.unreachable_since
            raise
        self.reached()
        self.peer = made.getpeername()[:2]  # no name is looked up twice
        made.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        return Connection(self.tls.wrap_socket(made, server_hostname=self.name) if self.tls else made)

    def reached(self) -> None:
        self.unreachable_since, self.unreachable_s = None, 0.0

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.free:
            self.free.pop().close()


class Connection:
    """One request at a time. After `ask` it holds the answer."""

    def __init__(self, socket: gevent.socket.socket) -> None:
        self.socket = socket
        self.poll = POLL()
        self.poll.register(socket.fileno(), select.POLLIN)
        self.parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self.status, self.is_kept, self.received_bytes = 0, False, 0
        self.body: list[bytes] = []

    def ask(self, content: bytes) -> None:
        """Raises OSError, httptools.HttpParserError."""
        assert self.parser is not None
        self.status, self.is_kept, self.received_bytes, self.body = 0, False, 0, []
        self.socket.sendall(content)
        while self.status < HTTPStatus.OK:  # after 1xx comes another
            if not (block := self.socket.recv(BLOCK_BYTES)):
                raise ConnectionResetError("closed before it had answered")
            self.received_bytes += len(block)
            self.parser.feed_data(block)

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        assert self.parser is not None
        self.status, self.is_kept = self.parser.get_status_code(), self.parser.should_keep_alive()

    def is_open(self) -> bool:
        """Whether the other end has neither closed it nor said more than its answer."""
        if isinstance(self.socket, gevent.ssl.SSLSocket):
            return True  # what lies there to read may be TLS's own
        return not self.poll.poll(0)

    def close(self) -> None:
        self.parser = None  # the two hold each other
        self.socket.close()


def problem_of(request: Request, status: int, body: bytes) -> str:
    """Empty for the answer that was asked for. Few of a kind, as failures are counted by it."""
    if status != HTTPStatus.OK:
        found = ERROR_CODE.search(body)
        return f"{status} {found[1].decode() if found else phrase(status)}"
    if request.answered in body or request.answered in body.replace(b": ", b":"):
        return ""
    return f"200 without {request.answered.decode()}"


def phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""


def version_of(body: bytes) -> str:
    """Which version answers; empty where the answer does not say it."""
    return found[1].decode(errors="replace") if (found := VERSION.search(body)) else ""


def timings_of(body: bytes) -> dict[str, float]:
    if not (found := TIMINGS.search(body)):
        return {}
    try:
        said = json.loads(found[1])
    except ValueError:
        return {}
    return {stage: ms for stage, ms in said.items() if isinstance(ms, float | int)}
