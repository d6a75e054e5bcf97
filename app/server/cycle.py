"""A request and its answer on a connection: uvicorn's, but bounded, and answered in one piece."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.core.errors import AnswerBrokenOff, Overloaded
from app.server.admission import Admission

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope

WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class Cycle(RequestResponseCycle):
    """Keeps the head of an answer back until there is something of its body.

    Uvicorn writes the two one after the other, which are two packets for the kernel and two events
    for the client, and looks at each byte of each header with regular expressions.
    """

    close_connection: Callable[[], None]
    """Set by the protocol: ends the connection behind the answer."""
    last_write = 0
    """How many bytes were written at last."""
    _head = b""
    _admission: Admission | None = None
    _is_aside = False
    _ends_with_connection = False

    def enter(self, admission: Admission) -> None:
        """Count the request as one that is worked on, until its answer is complete or it left."""
        admission.at_work += 1
        self._admission = admission

    def leave(self, _: object = None) -> None:
        """Count it no more."""
        self._step_aside()
        self._admission = None

    # What waits for its client is not worked on: else a few hundred slow ones would keep all others
    # out. An answer may wait for its reader while somebody still waits for the request's end.
    def _step_aside(self) -> None:
        if self._admission is not None and not self._is_aside:
            self._is_aside = True
            self._admission.at_work -= 1

    def _come_back(self) -> None:
        if self._admission is not None and self._is_aside:
            self._is_aside = False
            self._admission.at_work += 1

    async def run_asgi(self, app: "ASGI3Application") -> None:
        """Run the application, once the client has taken in what it was answered before.

        An answer that is broken off ends the connection, and that is all: uvicorn would write down
        the error once more, with its traceback.
        """

        async def application(
            scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable"
        ) -> None:
            try:
                if self.flow.write_paused:
                    await self._drain()
            except asyncio.CancelledError:
                # The client has gone, or the process ends; the application knows nothing of it yet.
                self.disconnected = True
                self.transport.close()
                return
            try:
                await app(scope, receive, send)
            except AnswerBrokenOff:
                self.disconnected = True
                self.transport.close()

        await super().run_asgi(application)

    async def receive(self) -> Message:  # type: ignore[override]  # Starlette's type
        """The next part of the request, as ASGI has it.

        Raises `Overloaded` if its end had to be waited for, the worker is full now, and nothing of
        the answer is out.
        """
        if not self.more_body or self.message_event.is_set() or self.response_started:
            return await super().receive()  # type: ignore[return-value]  # Starlette's type
        self._step_aside()
        try:
            message = await super().receive()
        finally:
            is_full = self._admission is not None and self._admission.is_full()
            self._come_back()
        if is_full and message["type"] == "http.request" and self._can_be_refused():
            raise Overloaded
        return message  # type: ignore[return-value]  # Starlette's type

    def _can_be_refused(self) -> bool:
        return not (self.more_body or self.response_started)

    async def send(self, message: Message) -> None:  # type: ignore[override]  # Starlette's type
        """Send a part of the answer, as ASGI has it.

        Raises `RuntimeError` for parts out of order, for a body that is not as long as it is said
        to be, and for line breaks in headers.
        """
        if self.flow.write_paused and not self.disconnected:
            await self._drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._start(message)
        elif message["type"] == "http.response.body" and self.response_started:
            self._continue(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} is out of order")

    async def _drain(self) -> None:
        """Wait until the kernel has taken most of what the client has not read yet."""
        self._step_aside()
        try:
            await self.flow.drain()
        finally:
            self._come_back()

    def _start(self, message: Message) -> None:
        self.response_started = True
        self._come_back()
        if self.waiting_for_100_continue and self.more_body:
            # The client may leave the body away, and its next request would be taken for it.
            self.keep_alive = False
        self.waiting_for_100_continue = False
        status = message["status"]
        headers = [*self.default_headers, *message.get("headers", ())]
        lines = [STATUS_LINE[status]]
        closes = False
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"connection" and value.lower() == b"close":
                closes = True
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if (
            self.chunked_encoding is None
            and self.scope["method"] != "HEAD"
            and status not in WITHOUT_BODY
        ):
            # To HTTP/1.0 it means nothing (RFC 9112, section 6.1): there the end of the connection
            # is that of the body.
            self._ends_with_connection = self.scope.get("http_version") == "1.0"
            if not self._ends_with_connection:
                self.chunked_encoding = True
                lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)
        # One ends each line. Those of a header have four parts, others have one.
        breaks = len(lines) - 3 * len(headers)
        if not self._head.count(b"\r") == self._head.count(b"\n") == breaks:
            raise RuntimeError("a header holds a line break")

    def _continue(self, body: bytes, *, more: bool) -> None:
        if self.response_complete:
            raise RuntimeError("the answer is complete already")
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"" if more else b"0\r\n\r\n"
        elif not self._ends_with_connection:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than Content-Length")
        written = self._head + body
        self._head = b""
        self.last_write = len(written)
        self.transport.write(written)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than Content-Length")
        self.response_complete = True
        self.leave()
        self.message_event.set()
        if not self.keep_alive:
            self.close_connection()
        self.on_response()
