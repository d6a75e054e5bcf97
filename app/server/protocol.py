"""HTTP/1.1 on a connection: uvicorn's protocol over llhttp, mended and bounded.

As it comes it takes the body behind an `Upgrade` header for another request, waits for slow senders
and readers without end, puts no limit to a request's head, works on for clients that have gone, and
closes connections when the process ends under requests that are on their way.
"""

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.core.lifecycle import CLIENT_HAS_GONE, lifecycle_of
from app.server import pace
from app.server.admission import Admission, admission_of
from app.server.client_buffers import client_buffers_of, reset, unread_in_kernel
from app.server.cycle import Cycle
from app.server.heads import MAXIMUM_HEAD_BYTES, size_of_head, with_path, without_upgrade

if TYPE_CHECKING:
    from starlette.types import Scope
    from uvicorn._types import ASGI3Application

# The largest body, 8 MiB, in the smallest chunks; whoever sends more was refused long before.
MAXIMUM_MESSAGE_BYTES = 64 * 1024 * 1024
# Parsed, requests take up to a hundred times as much memory as they have bytes.
PARSED_AT_ONCE = 8 * 1024
# How long an idle connection is kept while the process ends, for a request that is on its way.
DRAIN_SECONDS = 1
# How long what a client still sends behind its answer is read, and thrown away.
LINGER_SECONDS = 2

Receiving = Literal["nothing", "head", "body"]


class HTTPProtocol(HttpToolsProtocol):
    """One connection. Give it to uvicorn as its `http`.

    - RFC 9110, section 7.8: an `Upgrade` that the server does not know is ignored.
    - RFC 9112, sections 3.2 and 6.1: a request has one `Host`, and no transfer coding but chunked;
      else it is answered 400.
    - A head that does not come within 15 s is answered 408; with a body of which less than 4 KiB/s
      come for 15 s the connection is closed, and so it is with a client that takes so little in.
    - Where a worker keeps too much for slow clients, those with the most are cut off.
    - Of requests that are sent in a row, few are parsed before their turn.
    - When a client has gone, its request is cancelled.
    - While the process ends, each answer says `Connection: close`, and an idle connection is closed
      after 1 s.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **options)
        # The part of a message that is being received, and the bytes of the message so far.
        self._receiving: Receiving = "nothing"
        self._received = 0
        self._unparsed = b""
        self._sending = pace.Pace(self.loop.time())
        # Of the bytes that have just come: about how many the parser has passed on, and how many
        # of those belong to messages before the present one.
        self._passed = self._done_with = 0
        self._is_lingering = False
        # There while some of an answer is unread.
        self._reading: pace.Pace | None = None
        # A connection may be accepted just when the process stops to listen.
        self._is_draining = lifecycle_of(self.app_state).is_ending
        self._admission = admission_of(self.app_state)
        self._buffers = client_buffers_of(self.app_state)
        self._check: asyncio.TimerHandle | None = None
        self._running: Cycle | None = None
        self._has_refused = False
        self._is_message_refused = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        # What is written stays in memory whole while any of it is left.
        self.transport.set_write_buffer_limits(0)
        # Whoever connects wants to say something.
        self._receiving = "head"
        self._check_later()
        if self._is_draining:
            self.loop.call_later(DRAIN_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        self._buffers.unread_answers.free(self.transport)
        self._buffers.unfinished_bodies.free(self.transport)
        super().connection_lost(exc)
        # Uvicorn lets it run on where the client has reset the connection.
        self._unset_keepalive_if_required()
        cycle = self._running
        if cycle is not None and self._task is not None and not cycle.response_complete:
            # With requests in a row, uvicorn would tell the last of them, which has not begun.
            cycle.disconnected = True
            # The request's connection to the database is wanted by others. Asyncpg cancels what
            # runs there.
            cast("Scope", cycle.scope)[CLIENT_HAS_GONE] = True
            self._task.cancel()
        # Requests hold the connection, too: it would stay in memory until the garbage collector
        # runs, which is seldom.
        self.pipeline.clear()
        self._unparsed = b""
        self._running = None
        self.cycle = None  # type: ignore[assignment]  # as before the first request

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        # Uvicorn lets nobody choose the class.
        cycle.__class__ = Cycle
        assert isinstance(cycle, Cycle)  # noqa: S101 - tells the type
        cycle.close_connection = self._close_gently
        self._running = cycle
        admission = self._admission
        scope: Scope = cycle.scope  # type: ignore[assignment]  # Starlette's type
        if admission is not None and admission.concerns(scope):
            if admission.is_full():
                # It was sent behind another, which was let in, or had no need to be.
                cycle.response_complete = True
                self._refuse(admission, scope, closes=True)
                return
            cycle.enter(admission)
        # A pipelined request is begun by the one before, whose facts are not for its log.
        context = contextvars.Context()
        self._task = task = self.loop.create_task(cycle.run_asgi(app), context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        # Of a client that goes at once, the task is cancelled before it begins.
        task.add_done_callback(cycle.leave)

    def data_received(self, data: bytes) -> None:
        self._has_refused = False
        (self._keep if self._unparsed else self._parse)(data)

    def _parse(self, data: bytes) -> None:
        """Parse until a request has to wait for its turn; the rest waits with it."""
        start = 0
        while start < len(data) and not self.pipeline and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._feed(data[start : start + PARSED_AT_ONCE])
            start += PARSED_AT_ONCE
        if start < len(data) and not self.transport.is_closing():
            self._keep(data[start:])

    def _keep(self, data: bytes) -> None:
        self._unparsed += data
        self.flow.pause_reading()
        self._buffers.unfinished_bodies.add(self.transport, len(data))

    def _parse_the_rest(self) -> None:
        if self._unparsed and not self.pipeline and not self.transport.is_closing():
            data, self._unparsed = self._unparsed, b""
            self._buffers.unfinished_bodies.free(self.transport)
            self.flow.resume_reading()
            self._parse(data)

    def _feed(self, data: bytes) -> None:
        size = len(data)
        self._passed = self._done_with = 0
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("This is no proxy.")
                    return
                head = without_upgrade(self.parser, self.url, self.headers)
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                continue
            except httptools.HttpParserError:
                if not self._is_lingering:
                    self.send_400_response("Invalid HTTP request received.")
                return
            break
        self._received += size - self._done_with
        limit = MAXIMUM_HEAD_BYTES if self._receiving == "head" else MAXIMUM_MESSAGE_BYTES
        if self._received > limit:
            self.send_400_response("The request is too large.")
        if (
            self._receiving == "nothing"
            and self._is_idle()
            and self.timeout_keep_alive_task is None
            and not self.transport.is_closing()
        ):
            # What came was the rest of a request that has its answer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _should_upgrade(self) -> bool:
        # While it is said to upgrade, uvicorn leaves the request alone.
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving = "head"
        self._is_message_refused = False
        self._received = 0
        self._sending = pace.Pace(self.loop.time())
        self._done_with = self._passed

    def on_headers_complete(self) -> None:
        if self._is_lingering:
            raise ValueError("the connection ends with the answer before")
        size = size_of_head(self.url, self.headers, self.parser.get_http_version())
        if self.parser.get_http_version() == "1.0":
            # It knows no answer before the answer (RFC 9110, section 10.1.1).
            self.expect_100_continue = False
        self._passed += size
        self._receiving = "body"
        self._sending.forgive(self.loop.time())
        if not self.parser.should_upgrade():
            self.url = with_path(self.url)
        if self._is_refused():
            return
        super().on_headers_complete()
        # Behind an `Upgrade` there is no cycle yet, or still the one before.
        if self._is_draining and not self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def _is_refused(self) -> bool:
        """Answer the request here and now if the worker is full."""
        admission = self._admission
        if admission is None or not admission.is_full():
            return False
        # Behind an `Upgrade` the head comes again. Requests in a row are answered in their order.
        if self.parser.should_upgrade() or not self._is_idle():
            return False
        request = cast("Scope", self.scope)
        request["method"] = self.parser.get_method().decode()
        request["path"] = unquote_to_bytes(httptools.parse_url(self.url).path).decode("latin-1")
        if not admission.concerns(request):
            return False
        closes = (
            # The client will leave the body away, or be slow to read a row of refusals.
            self.expect_100_continue
            or self._has_refused
            or self.flow.write_paused
            or self._is_draining
            or self.parser.get_http_version() == "1.0"
            or not self.parser.should_keep_alive()
        )
        self._has_refused = self._is_message_refused = True
        self._refuse(admission, request, closes=closes)
        return True

    def _refuse(self, admission: Admission, request: "Scope", *, closes: bool) -> None:
        if self.transport.is_closing():
            return
        own_headers = self.server_state.default_headers
        self.transport.write(admission.refusal(request, own_headers, closes=closes))
        if closes:
            self._close_gently()
        self.on_response_complete()

    def _close_gently(self) -> None:
        """Close, but not under a client that still sends: it would lose the answer to a reset.

        RFC 9112, section 9.6.
        """
        if self._receiving != "body" and not self._unparsed:
            self.transport.close()
            return
        self._is_lingering = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._buffers.unfinished_bodies.free(self.transport)
        if self._unparsed:  # Before the next request begins: its body may be there.
            self.loop.call_soon(self._parse_the_rest)
        if self._is_lingering:
            # What was sent behind it is not to be begun.
            self.server_state.total_requests += 1
            self.pipeline.clear()
            self.flow.resume_reading()
        else:
            super().on_response_complete()
        if self._unparsed and not self.transport.is_closing():
            self.flow.pause_reading()

    def _is_answered(self) -> bool:
        """Whether the message that is being read has its answer already."""
        if self._receiving == "nothing":
            return False
        if self._is_message_refused:
            return True
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.scope is self.scope and cycle.response_started

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, in its turn, and end the connection."""
        if self.transport.is_closing():
            return
        if self._is_answered():
            self.transport.close()
        elif self._running is not None and not self._is_idle() and self._is_behind(self._running):
            # Its answer is next, and says that the connection ends.
            self._running.keep_alive = False
            self.flow.pause_reading()
        else:
            super().send_400_response(msg)

    def _is_behind(self, cycle: Cycle) -> bool:
        """Whether what is being read comes behind the request that is being answered."""
        return self._receiving == "nothing" or cycle.scope is not self.scope

    def on_header(self, name: bytes, value: bytes) -> None:
        # Of what comes behind a chunked body (RFC 9110, section 6.5.1) nothing is a header: no
        # proxy has looked at it.
        if self._receiving == "head":
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._passed += len(body)
        # What follows behind an answer is not wanted.
        if not self._is_idle():
            super().on_body(body)
            self._buffers.unfinished_bodies.add(self.transport, len(body))

    def on_message_complete(self) -> None:
        self._receiving = "nothing"
        self._buffers.unfinished_bodies.free(self.transport)
        if self._is_lingering:
            self.transport.close()
        if not self._is_idle():
            super().on_message_complete()

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._running is not None:
            # It stays whole until the last of it was read.
            self._buffers.unread_answers.add(self.transport, self._running.last_write)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._buffers.unread_answers.free(self.transport)
        # What waits from now on is another part of the answer.
        self._reading = None

    def _check_later(self) -> None:
        self._check = self.loop.call_later(pace.CHECK_EVERY_SECONDS, self._check_client)

    def _check_client(self) -> None:
        # Until the connection is lost: one that is being closed still waits for its reader.
        self._check_later()
        self._buffers.shed()
        if self._is_slow_reader():
            reset(self.transport)
        elif self._is_slow_sender() and not self.transport.is_closing():
            if self._receiving == "head" and self._is_idle():
                answer = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"
                self.transport.write(answer)
            # Of a body the handler waits for, which is told that the client has gone; or it has
            # answered already, and a second answer would be taken for that to another request.
            self.transport.close()

    def _is_slow_sender(self) -> bool:
        if self._receiving == "nothing":
            return False
        now = self.loop.time()
        if self.flow.read_paused or self._unparsed:
            # It is the application that is slow to read, and not the client to send.
            self._sending.forgive(now)
        if self._receiving == "body":
            self._sending.check(now, self._received)
        return self._sending.is_slow(now)

    def _is_slow_reader(self) -> bool:
        unread = self.transport.get_write_buffer_size()
        if unread:
            unread += unread_in_kernel(self.transport)
        if unread == 0:
            self._reading = None
            return False
        now = self.loop.time()
        if self._reading is None:
            self._reading = pace.Pace(now, -unread)
        self._reading.check(now, -unread)
        return self._reading.is_slow(now)

    def shutdown(self) -> None:
        """Called by the server when the process shall end."""
        self._is_draining = True
        if self._is_idle():
            self.loop.call_later(DRAIN_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()
