"""One structured line per event: for people in development, JSON in production."""

import json
import logging
import logging.config
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog
from pydantic_core import PydanticSerializationError, to_json
from structlog.tracebacks import ExceptionDictTransformer

from app.core.tracing import add_trace_ids
from app.core.tracing import is_requested as tracing_is_requested

if TYPE_CHECKING:
    from structlog.typing import Processor


class NamedLogger(structlog.WriteLogger):
    """Writes lines to a file at once, without the records and handlers of the standard library.

    A file that takes no line, since its disk is full or its reader has gone, is no fault of what is
    logged: a write that is committed must be answered as one.
    """

    def __init__(self, name: str, file: TextIO) -> None:
        super().__init__(file)
        self.name = name

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            try:
                super().msg(message)
            except UnicodeEncodeError:
                super().msg(message.encode("ascii", "backslashreplace").decode())

    debug = info = warning = error = critical = msg


def _as_json(event: dict[str, Any], **_: object) -> str:
    try:
        return to_json(event, fallback=repr).decode()
    except PydanticSerializationError:
        # A lone surrogate, say, in the text of an error.
        return json.dumps(event, default=repr)


def configure_logging(
    *, level: str, form: Literal["json", "console"], file: TextIO | None = None
) -> None:
    """Send structlog's and the standard library's records to `file`, standard output, in one form.

    Request ids and user ids join by `structlog.contextvars`. Uvicorn's own access log is off: the
    request log of `RequestMiddleware` says more, and says it without query strings. Tracebacks come
    without local variables, which hold passwords and tokens.
    """
    file = file or sys.stdout
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        *([add_trace_ids] if tracing_is_requested() else []),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = (
        [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(serializer=_as_json),
        ]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=file.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        logger_factory=lambda name: NamedLogger(name, file),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "structured": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": [
                        *shared,
                        structlog.stdlib.PositionalArgumentsFormatter(),
                    ],
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        *rendering,
                    ],
                }
            },
            "handlers": {
                "file": {
                    "class": "logging.StreamHandler",
                    "stream": file,
                    "formatter": "structured",
                }
            },
            "root": {"handlers": ["file"], "level": level},
            "loggers": {
                "uvicorn": {"handlers": [], "propagate": True, "level": level},
                "uvicorn.error": {"handlers": [], "propagate": True, "level": level},
                "uvicorn.access": {"handlers": [], "propagate": False},
                "asyncio": {"level": "WARNING"},
                # It tells of each part of its own that it loads.
                "alembic.runtime.plugins": {"level": "WARNING"},
                # It warns of headers for a collector that it cannot read, and they are secrets.
                "opentelemetry.util.re": {"level": "ERROR"},
            },
        }
    )
