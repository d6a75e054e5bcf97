"""What happens at the edge of every request, in pure ASGI.

`BaseHTTPMiddleware` would hide clients that disconnect and cost a task per request.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable

import structlog
from fastapi import Request
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import (
    AnswerBrokenOff,
    APIError,
    ClientClosedRequest,
    Overloaded,
    error_response,
)
from app.core.lifecycle import CLIENT_HAS_GONE
from app.core.metrics import Metrics
from app.core.rate_limits import client_address, rate_limit_headers
from app.core.tracing import name_request

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# What OWASP's REST security cheat sheet asks of an API; an answer of its own wins over each.
DEFAULT_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
# RFC 6797, section 7.2: never over plain HTTP.
STRICT_TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=63072000")
EXPOSED_HEADERS = (
    "ETag",
    "Idempotent-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
)
# Where a request's answer has its status, as soon as there is one.
STATUS = "taskflow.status"

log = structlog.stdlib.get_logger("taskflow.request")


class RequestMiddleware:
    """Names each request, answers HEAD as GET, adds the headers of every answer, logs a line.

    `route_template` names the route of a finished request; `metrics` counts it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        route_template: Callable[[Scope], str | None],
        metrics: Metrics,
    ) -> None:
        self.app = app
        self.route_template = route_template
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = request_id_of(scope)
        method = scope["method"]
        status = 0
        size = 0

        async def send_named(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = scope[STATUS] = message["status"]
                given = message["headers"]
                names = dict(given)
                message["headers"] = [
                    *given,
                    (b"x-request-id", request_id.encode()),
                    *[header for header in DEFAULT_HEADERS if header[0] not in names],
                    *rate_limit_headers(scope),
                ]
                if scope["scheme"] == "https":
                    message["headers"].append(STRICT_TRANSPORT_SECURITY)
            elif method == "HEAD":
                message = {**message, "body": b""}
            else:
                size += len(message.get("body", b""))
            await send(message)

        # The server keeps its own scope: it must go on knowing that HEAD has no body.
        servers_scope = scope
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        scope["taskflow.request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id, address=client_address(scope))
        name_request(request_id)
        self.metrics.active += 1
        try:
            await self.app(scope, receive, send_named)
        except asyncio.CancelledError:
            if CLIENT_HAS_GONE in servers_scope:
                status = status or ClientClosedRequest.status
            elif status:
                raise
            else:
                # The process has no more time to wait for what is under way.
                await error_response(Request(scope), Overloaded())(scope, receive, send_named)
        finally:
            seconds = time.perf_counter() - started
            route = self.route_template(scope)
            self.metrics.active -= 1
            self.metrics.count(method, route, status, seconds=seconds, size=size)
            log.info(
                "request",
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 2),
                user_id=scope.get("taskflow.user_id"),
            )


class LastResortMiddleware:
    """Answers what nobody handled: an error that gets to the server closes the connection.

    `report` logs an exception and returns the error that clients are shown. This stands inside of
    the other middleware, so that its answers get the headers of all answers. It raises
    `AnswerBrokenOff` if an answer has begun, which `RequestMiddleware` notes in the scope.
    """

    def __init__(self, app: ASGIApp, *, report: Callable[[Exception], APIError]) -> None:
        self.app = app
        self.report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as exception:
            error = self.report(exception)
            if scope["type"] != "http":
                raise
            if STATUS in scope:
                # Half an answer is out; only a closed connection tells the client that it is cut.
                log.warning("answer broken off", code=error.code)
                raise AnswerBrokenOff from exception
            await error_response(Request(scope), error)(scope, receive, send)


class PreflightedCORSMiddleware(CORSMiddleware):
    """Starlette's, but for preflights, which are all answered with 204 and without a body.

    A browser tells from the headers whether it may go on. Starlette would refuse with 400 and plain
    text, outside of the envelope.
    """

    def preflight_response(self, request_headers: Headers) -> Response:
        """204 with Starlette's CORS headers, which allow the origin only if it is allowed."""
        answer = super().preflight_response(request_headers)
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name == "vary" or name.startswith("access-control-")
        }
        return Response(status_code=204, headers=headers)


def request_id_of(scope: Scope) -> str:
    """The id that the client gives its request if it is a valid one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            return given if REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
    return os.urandom(16).hex()
