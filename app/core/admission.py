"""A bounded queue: what a worker cannot answer soon it refuses at once.

Requests that wait for a connection or for the processor wait for one another: with each that is let
in, all of them take longer. Beyond a number of them, waiting longer helps nobody.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import Overloaded, error_response
from app.core.metrics import REFUSED_REQUESTS
from app.core.tracing import PROBES


class Admission:
    """How many requests this worker works on at the moment, and how many it may."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
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


class AdmissionMiddleware:
    """Answers 503 `overloaded` while the worker is full, before it looks at the request.

    Probes always pass. A request whose client is slow to send or to read does not count meanwhile:
    else a few hundred slow clients would keep all others out.
    """

    def __init__(self, app: ASGIApp, *, admission: Admission) -> None:
        self.app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        admission = self._admission
        if admission.is_full():
            REFUSED_REQUESTS.inc()
            await error_response(Request(scope), Overloaded())(scope, receive, send)
            return
        is_complete = False

        async def receive_aside() -> Message:
            nonlocal is_complete
            if is_complete:
                # Only whether the client is still there is asked, beside the work.
                return await receive()
            admission.at_work -= 1
            try:
                message = await receive()
                is_complete = not message.get("more_body", False)
                if is_complete and admission.is_full():
                    REFUSED_REQUESTS.inc()
                    raise Overloaded
            finally:
                admission.at_work += 1
            return message

        async def send_aside(message: Message) -> None:
            admission.at_work -= 1
            try:
                await send(message)
            finally:
                admission.at_work += 1

        admission.at_work += 1
        try:
            await self.app(scope, receive_aside, send_aside)
        finally:
            admission.at_work -= 1
