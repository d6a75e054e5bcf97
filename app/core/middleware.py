"""What happens at the edge of every request, in pure ASGI.

`BaseHTTPMiddleware` would hide clients that disconnect and cost a task per request.
"""

import re
import time
import uuid
from collections.abc import Callable

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import APIError, NotFound, error_response

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

log = structlog.stdlib.get_logger("taskflow.request")


class RequestMiddleware:
    """Names each request, answers HEAD as GET, renders what nobody handled, writes the log line.

    It is the outermost user middleware: an error that gets past it reaches the server, which closes
    the connection under a keep-alive client. `report` logs an exception and returns the error that
    clients are shown; `route_template` names the route of a finished request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        report: Callable[[Exception], APIError],
        route_template: Callable[[Scope], str | None],
    ) -> None:
        self.app = app
        self.report = report
        self.route_template = route_template

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        method = scope["method"]
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.setdefault("Cache-Control", "no-store")
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        # The server keeps its own scope: it must go on knowing that HEAD has no body.
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        scope["taskflow.request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            # The `$` at the end of a route's pattern also matches before a final newline.
            exists = not scope["path"].endswith("\n")
            app = self.app if exists else error_response(Request(scope), NotFound())
            await app(scope, receive, send_named)
        except Exception as exception:
            error = self.report(exception)
            if status:
                # Half an answer is out; only a closed connection tells the client that it is cut.
                raise
            await error_response(Request(scope), error)(scope, receive, send_named)
        finally:
            log.info(
                "request",
                method=method,
                route=self.route_template(scope),
                status=status,
                duration_ms=round((time.perf_counter() - started) * 1000, 2),
                user_id=scope.get("taskflow.user_id"),
            )


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
