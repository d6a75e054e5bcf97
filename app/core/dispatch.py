"""Finds the route of a request in one look, where Starlette tries one after the other."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import NotFound, error_response
from app.core.routing import StrictRoute

if TYPE_CHECKING:
    import re

Methods = dict[str, StrictRoute]


class DispatchMiddleware:
    """Calls a strict route itself; leaves to the application what no such route is there for.

    A strict route answers errors by itself and needs nothing of what FastAPI puts around routes.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._by_path: dict[str, Methods] = {}
        self._by_pattern: dict[re.Pattern[str], Methods] = {}
        for route in routes:
            if isinstance(route, StrictRoute):
                methods = (
                    self._by_pattern.setdefault(route.path_regex, {})
                    if route.param_convertors
                    else self._by_path.setdefault(route.path, {})
                )
                for method in route.methods or ():
                    methods.setdefault(method, route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = self._find(scope["path"])
        if found is None and scope["path"].endswith("\n"):
            # The `$` at the end of a route's pattern also matches before a final newline.
            await error_response(Request(scope), NotFound())(scope, receive, send)
            return
        route = found[0].get(scope["method"]) if found else None
        if found and route and not scope["root_path"] and "fastapi.telemetry" not in scope:
            scope["endpoint"] = route.endpoint
            scope["path_params"] = found[1]
            await route.serve(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _find(self, path: str) -> tuple[Methods, dict[str, str]] | None:
        if path in self._by_path:
            return self._by_path[path], {}
        for pattern, methods in self._by_pattern.items():
            if match := pattern.fullmatch(path):
                return methods, match.groupdict()
        return None
