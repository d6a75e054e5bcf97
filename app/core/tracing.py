"""Traces by OpenTelemetry, where its standard `OTEL_*` variables ask for them.

Without them nothing of the SDK is imported, and nothing is done. With them FastAPI makes a span of
each request, with the template of its route, and `statement_span` one of each statement in it.
Spans hold no values: neither those of queries' parameters, nor those of statements, nor errors'
texts.
"""

import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from app import __version__
from app.core.settings import InvalidSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from structlog.typing import EventDict, WrappedLogger

# Longer than this a collector that does not answer may not keep the process from its end.
LAST_EXPORT_SECONDS = 3
# A thousand rows that are inserted at once make a text of hundreds of kilobytes.
MAXIMUM_STATEMENT_LENGTH = 4096
PROBES = frozenset({"/health", "/health/ready", "/metrics"})
TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(?!\()(?:ONLY\s+)?(\w+)")

_provider: "TracerProvider | None" = None


def is_requested() -> bool:
    """Whether the environment asks for traces: it names an exporter or an OTLP endpoint."""
    exporter = _variable("OTEL_TRACES_EXPORTER")
    endpoint = _variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if _variable("OTEL_SDK_DISABLED").lower() == "true" or exporter == "none":
        return False
    return bool(exporter or endpoint)


def _variable(*names: str) -> str:
    """The value of the first variable that is set and not empty."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def traces_exporter() -> str:
    """Which exporter `OTEL_*` ask for; none if they do not ask for traces.

    Raises `InvalidSettings` for an exporter or a protocol that is not supported.
    """
    if not is_requested():
        return "none"
    exporter = _variable("OTEL_TRACES_EXPORTER") or "otlp"
    protocol = _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    faults = []
    if exporter not in {"otlp", "console"}:
        faults.append("  OTEL_TRACES_EXPORTER must be otlp, console or none")
    if protocol not in {"", "http/protobuf"}:
        faults.append("  OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf")
    if faults:
        raise InvalidSettings(faults)
    return exporter


def start_tracing() -> "TracerProvider | None":
    """What makes spans and sends them, configured by `OTEL_*`; None if they do not ask for it.

    Raises what `traces_exporter` does.
    """
    global _provider  # noqa: PLW0603 - one process, one provider, as in OpenTelemetry itself
    exporter = traces_exporter()
    if exporter == "none":
        return None

    # They take a third of a second to import, which only those pay who use them.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - see above
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace import (  # noqa: PLC0415 - see above
        Span,
        SpanProcessor,
        TracerProvider,
    )
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 - see above
        BatchSpanProcessor,
        ConsoleSpanExporter,
    )

    class QueryRemover(SpanProcessor):
        """Takes the query out of spans: people send secrets in it, even where none is asked."""

        def on_start(self, span: Span, parent_context: object = None) -> None:  # noqa: ARG002 - given by the SDK
            if "url.query" in (span.attributes or ()):
                span.set_attribute("url.query", "REDACTED")

    # The variables win: the SDK reads them into every resource.
    named = "service.name=" in _variable("OTEL_RESOURCE_ATTRIBUTES")
    service = {} if named or _variable("OTEL_SERVICE_NAME") else {"service.name": "taskflow"}
    provider = TracerProvider(
        resource=Resource.create({**service, "service.version": __version__}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(QueryRemover())
    provider.add_span_processor(
        BatchSpanProcessor(ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter())
    )
    _provider = provider
    return provider


async def stop_tracing(provider: "TracerProvider") -> None:
    """Send the last spans; after three seconds the collector is given up on."""
    global _provider  # noqa: PLW0603 - see above
    _provider = None
    # A thread of its own that ends with the process: the SDK would wait for half a minute.
    sending = Thread(target=provider.shutdown, daemon=True)
    sending.start()
    await to_thread.run_sync(sending.join, LAST_EXPORT_SECONDS)


def telemetry_of_requests(provider: "TracerProvider | None") -> TelemetryConfig:
    """What FastAPI does of its own: spans of requests, but for those of probes."""

    def is_probe(scope: MutableMapping[str, Any]) -> bool:
        return scope.get("path") in PROBES

    return {
        "tracer_provider": provider,
        "tracing": provider is not None,
        # Ours are in `metrics.py`, and the log has the errors.
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": is_probe,
    }


def name_request(request_id: str) -> None:
    """Put the request's id into its span, if there is one."""
    if _provider is not None:
        trace.get_current_span().set_attribute("taskflow.request_id", request_id)


def is_traced() -> bool:
    """Whether what happens now is part of a trace that is recorded."""
    return _provider is not None and trace.get_current_span().is_recording()


@contextmanager
def statement_span(operation: str, text: str) -> Iterator[None]:
    """A span around a statement of a request that is traced.

    `text` is the statement with its placeholders, and without the values of its parameters.
    """
    table = TABLE.search(text)
    with trace.get_tracer("taskflow", __version__, _provider).start_as_current_span(
        f"{operation} {table[1]}" if table else operation,
        kind=trace.SpanKind.CLIENT,
        attributes={
            "db.system.name": "postgresql",
            "db.operation.name": operation,
            "db.query.text": text[:MAXIMUM_STATEMENT_LENGTH],
        },
        # The text of an error may hold whole rows.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            if sqlstate := getattr(error, "sqlstate", None):
                span.set_attribute("db.response.status_code", sqlstate)
            span.set_status(trace.StatusCode.ERROR)
            raise


def add_trace_ids(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    """For the log's processors: `trace_id` and `span_id` of the span that a line belongs to."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event
