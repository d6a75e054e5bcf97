"""A bounded queue: what a worker cannot answer soon it refuses at once.

Requests that wait for a connection or for the processor wait for one another: with each that is let
in, all of them take longer. Beyond a number of them, waiting longer helps nobody.

A refusal must cost next to nothing: at three times what a worker can do there are two refusals for
each answer, and the time that they take is not there for what was let in. So the protocol asks as
soon as the head of a request is read, and no task, no middleware and no line of the log follow.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from fastapi import Request
from starlette.types import Scope

from app.core.errors import Overloaded, error_body
from app.core.metrics import REFUSED_REQUESTS
from app.core.middleware import DEFAULT_HEADERS, EXPOSED_HEADERS, request_id_of
from app.core.strict_json import compact_json
from app.core.tracing import PROBES

STATE_KEY = "taskflow.admission"
# How often the log tells how many were refused.
TELL_EVERY_SECONDS = 1.0

Headers = list[tuple[bytes, bytes]]

log = structlog.stdlib.get_logger("taskflow.request")


class Admission:
    """How many requests this worker works on at the moment, and how many it may.

    Kept by `HTTPProtocol`, and so by `taskflow serve`; other servers have limits of their own.
    Lives in the state of the lifespan (ASGI), which the server shows to each connection.
    """

    def __init__(self, maximum: int, *, cors_origins: Sequence[str]) -> None:
        self._maximum = maximum
        self._cors_origins = cors_origins
        self.untold = 0
        self.at_work = 0

    def is_full(self) -> bool:
        return self.at_work >= self._maximum

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within the block a request waits for what takes nothing from the others."""
        self.at_work -= 1
        try:
            yield
        finally:
            self.at_work += 1

    def concerns(self, request: Scope) -> bool:
        """Whether a request is counted, and may be refused. Probes and OPTIONS never are."""
        return request["path"] not in PROBES and request["method"] != "OPTIONS"

    def refusal(self, request: Scope, server_headers: Headers, *, closes: bool) -> bytes:
        """The 503 `overloaded` that answers a request, which is counted.

        `request` has its `method` and `headers`; `server_headers` are the server's own.
        """
        REFUSED_REQUESTS.inc()
        self._tell_soon()
        request_id = request_id_of(request).encode()
        body = _BODY % request_id
        headers = [
            *server_headers,
            (b"x-request-id", request_id),
            (b"content-length", b"%d" % len(body)),
            *self._cors_headers(request),
        ]
        if closes:
            headers.append((b"connection", b"close"))
        head = _HEAD + b"".join([b"%b: %b\r\n" % header for header in headers]) + b"\r\n"
        return head if request["method"] == "HEAD" else head + body

    def _cors_headers(self, request: Scope) -> Headers:
        """What a page of an allowed origin needs to see that it was refused (Fetch standard)."""
        origin = next((value for name, value in request["headers"] if name == b"origin"), None)
        if origin is None or not self._cors_origins:
            return []
        allowed = "*" if "*" in self._cors_origins else origin.decode("latin-1")
        if allowed not in self._cors_origins:
            return []
        return [
            (b"access-control-allow-origin", allowed.encode("latin-1")),
            (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode()),
            (b"vary", b"Origin"),
        ]

    def _tell_soon(self) -> None:
        if not self.untold:
            asyncio.get_running_loop().call_later(TELL_EVERY_SECONDS, self.tell)
        self.untold += 1

    def tell(self) -> None:
        """Write down how many were refused since it was last told."""
        count, self.untold = self.untold, 0
        if count:
            log.warning("requests refused", code=Overloaded.code, count=count)


def admission_of(state: Mapping[str, Any]) -> Admission | None:
    """The admission in the state of a lifespan; None where all are let in."""
    return state.get(STATE_KEY)


def _body_of_any_id() -> bytes:
    request = Request({"type": "http", "taskflow.request_id": "%s"})
    body = error_body(request, code=Overloaded.code, message=Overloaded.message)
    return compact_json(body).encode()


def _head_of_all() -> bytes:
    headers = [
        (b"content-type", b"application/json"),
        (b"retry-after", Overloaded.retry_after.encode()),
        *DEFAULT_HEADERS,
    ]
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([b"HTTP/1.1 503 Service Unavailable\r\n", *lines])


_BODY = _body_of_any_id()
_HEAD = _head_of_all()
