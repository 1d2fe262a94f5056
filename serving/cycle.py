"""A shorter way through uvicorn for a body that is there and for a response that is whole."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Cycle(RequestResponseCycle):
    """A request and its response, of which each may pass at once."""

    def take_body(self) -> bytes | None:
        """All of it, where it is there already, as most are when they are asked for; None elsewhere."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        body, self.body = bytes(self.body), bytearray()
        self.flow.resume_reading()  # or nobody would notice that the client hangs up
        self.message_event.clear()
        return body

    async def receive(self) -> ASGIReceiveEvent:
        """Goes on reading behind a body, or nobody would notice that the client hangs up before somebody asks again."""
        message = await super().receive()
        if not self.more_body:
            self.flow.resume_reading()
        return message

    @property
    def may_write(self) -> bool:
        """Whether nothing has been written yet, and the client reads."""
        return not (self.response_started or self.disconnected or self.flow.write_paused)

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more to be answered."""
        self.disconnected = self.disconnected or self.transport.is_closing()
        return self.disconnected

    def write_whole(self, response: Response) -> bool:
        """Whether it is sent; where it is not, it goes the usual way.

        uvicorn's own way is two messages, and a look at every character of every header. Here all of them are this
        service's, and what it repeats of a request, its id, has been examined.
        """
        if type(response) is not Response or response.background is not None or self.scope["method"] == "HEAD":
            return False
        if not self.may_write:
            return False
        # Its answer would be lost to a client that is sending: a connection that is closed on it is reset.
        is_sent_more = (
            self.more_body and not self.waiting_for_100_continue and response.status_code != HTTPStatus.REQUEST_TIMEOUT
        )
        self.response_started, self.waiting_for_100_continue = True, False
        lines, says_so = [STATUS_LINE[response.status_code]], False
        for name, value in (*self.default_headers, *response.raw_headers):
            lines += (name, b": ", value, b"\r\n")
            if name == b"connection":  # ours says nothing but that it closes
                self.keep_alive, says_so = False, True
        ends = b"\r\n" if self.keep_alive or says_so else b"connection: close\r\n\r\n"
        self.transport.write(b"".join([*lines, ends, response.body]))
        self.response_complete = True
        self.message_event.set()
        if not (self.keep_alive or is_sent_more):
            self.transport.close()
        respond, self.on_response = self.on_response, lambda: None  # or it and the connection would hold each other
        respond()
        return True


def take_body(receive: Receive) -> bytes | None:
    """From uvicorn; None elsewhere."""
    cycle = getattr(receive, "__self__", None)
    return cycle.take_body() if isinstance(cycle, Cycle) else None


def has_come(receive: Receive) -> bool:
    """Whether the body is there, whole, as far as uvicorn says; elsewhere nobody does."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, Cycle) and not cycle.more_body


async def send_whole(response: Response, scope: Scope, receive: Receive, send: Send) -> bool:
    """At once, where uvicorn is who sends; as any ASGI application would, elsewhere.

    False where the client has gone meanwhile, as far as uvicorn knows.
    """
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, Cycle):
        if cycle.is_gone:
            return False
        if cycle.write_whole(response):
            return True
    await response(scope, receive, send)
    return True
