"""The application factory: the only place where the parts are wired together."""

import gc
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, ip_network
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import __version__
from app.accounts.credentials import ActorCache
from app.accounts.errors import OAuthError, render_oauth_error
from app.api import ROUTES
from app.core.dispatch import DispatchMiddleware
from app.core.docs import install_docs
from app.core.errors import MethodNotAllowed, error_response, install_error_handlers
from app.core.lifecycle import STATE_KEY as LIFECYCLE
from app.core.lifecycle import Lifecycle
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.core.middleware import (
    EXPOSED_HEADERS,
    LastResortMiddleware,
    PreflightedCORSMiddleware,
    RequestMiddleware,
)
from app.core.openapi import openapi_document
from app.core.pagination import CursorSigner
from app.core.rate_limits import RateLimiter
from app.core.routing import operation_id
from app.core.security import PasswordHasher
from app.core.settings import InvalidSettings, Settings, load_settings
from app.core.tracing import start_tracing, stop_tracing, telemetry_of_requests
from app.db.errors import report
from app.db.session import Database
from app.health.router import router as health
from app.observability.router import router as observability
from app.server.admission import STATE_KEY as ADMISSION
from app.server.admission import Admission
from app.server.client_buffers import STATE_KEY as CLIENT_BUFFERS
from app.server.client_buffers import ClientBuffers
from app.server.signals import signals_heeded
from app.tasks.idempotency import KeyTurns
from app.tasks.purge import regular_purge


def create_app(settings: Settings) -> FastAPI:
    """The service, ready to be run by any ASGI server.

    What concerns connections is done by `taskflow serve` alone: slow clients are cut off, surplus
    requests are refused, and those of clients that have gone are cancelled.

    Raises `InvalidSettings` without a `database_url`, and for what `OTEL_*` variables say wrongly.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        database: Database = app.state.database
        lifecycle = Lifecycle()
        with signals_heeded(lifecycle, shutdown_delay=settings.shutdown_delay):
            async with database.watched(), regular_purge(database, settings), metrics.published():
                yield {
                    LIFECYCLE: lifecycle,
                    ADMISSION: app.state.admission,
                    CLIENT_BUFFERS: ClientBuffers(),
                }
        app.state.admission.tell()
        await app.state.rate_limiter.close()
        await database.close()
        if tracer_provider is not None:
            await stop_tracing(tracer_provider)

    tracer_provider = start_tracing()

    app = FastAPI(
        title="taskflow",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        telemetry=telemetry_of_requests(tracer_provider),
    )
    app.state.settings = settings
    app.state.database = Database(settings)
    app.state.actors = ActorCache()
    app.state.cursors = CursorSigner(settings.secret_keys)
    app.state.rate_limiter = RateLimiter(
        redis_url=settings.redis_url.get_secret_value() if settings.redis_url else None
    )
    # Argon2 takes a core for itself: more at once than half of them, in all workers together, would
    # starve the event loops. Each has at least one.
    at_once = (os.cpu_count() or 1) // (2 * settings.workers)
    app.state.password_hasher = PasswordHasher(concurrency=max(1, at_once))
    app.state.metrics = metrics = Metrics(app.state.database.pool_state)
    app.state.admission = Admission(
        settings.maximum_concurrent_requests, cors_origins=settings.cors_origins
    )
    app.state.key_turns = KeyTurns(settings, app.state.admission)
    app.include_router(health)
    app.router.routes.extend(ROUTES)
    if settings.metrics_enabled:
        app.include_router(observability)
    install_docs(app)
    install_error_handlers(app)
    app.add_exception_handler(OAuthError, render_oauth_error)
    app.add_exception_handler(405, _method_not_allowed)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]  # FastAPI's documented way
    _install_middleware(app, settings, metrics)
    return app


def _install_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """From the inside to the outside: what is added last sees a request first."""
    app.add_middleware(DispatchMiddleware, routes=ROUTES)
    app.add_middleware(LastResortMiddleware, report=report)
    if settings.cors_origins:
        app.add_middleware(
            PreflightedCORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(RequestMiddleware, route_template=_RouteTemplates(app), metrics=metrics)
    if settings.trusted_proxies:
        # A socket that listens on IPv6 shows IPv4 clients as mapped addresses.
        networks = [ip_network(network) for network in settings.trusted_proxies]
        mapped = [
            f"::ffff:{network.network_address}/{96 + network.prefixlen}"
            for network in networks
            if isinstance(network, IPv4Network)
        ]
        trusted = [*map(str, networks), *mapped]
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)


class _RouteTemplates:
    """Names the route of a finished request, such as `/api/v1/tasks/{task_id}`, for the log."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._templates: dict[Any, str | None] = {}

    def __call__(self, scope: Scope) -> str | None:
        if not self._templates:
            self._templates = {
                route.endpoint: route.path_format
                for route in iter_route_contexts(self._app.routes)
                if route.endpoint is not None
            }
        return self._templates.get(scope.get("endpoint"))


async def _method_not_allowed(request: Request, _: Exception) -> JSONResponse:
    """Starlette names the methods of the first route that matches; `Allow` holds those of all."""
    allowed: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(request.scope["path"]):
            allowed |= route.methods
    if "GET" in allowed:
        allowed.add("HEAD")
    return error_response(request, MethodNotAllowed(headers={"Allow": ", ".join(sorted(allowed))}))


def __getattr__(name: str) -> FastAPI:
    """`app.main:app`, made from the environment when a server asks for it and not on import."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = load_settings()
        configure_logging(level=settings.log_level, form=settings.log_format)
        made = create_app(settings)
    except InvalidSettings as error:
        raise SystemExit(str(error)) from None
    # What was made until now lives as long as the process. A full collection would walk through all
    # of it, for some 30 ms in which no request is answered, and find nothing.
    gc.collect()
    gc.freeze()
    # Hardly anything that a request leaves behind is in a cycle, and each collection walks through
    # what connections hold. With Python's own thresholds of 700, 10 and 10 it would do so all the
    # time when there are thousands, and those who wait meanwhile would take twice as long.
    gc.set_threshold(50_000, 50, 100)
    return made
