"""What the database's refusals mean, to clients and to whoever reads the log."""

import traceback

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.errors import APIError, DatabaseUnavailable, InternalError, Overloaded, as_api_error

# The classes and codes of SQLSTATE that blame the database and not the statement: connection
# exceptions, insufficient resources, operator intervention (shutdown, a cancelled statement),
# transaction rollback (deadlock, serialization), lock not available, a read-only server, and a
# server that does not let us in (wrong password, no such database).
UNAVAILABLE_SQLSTATES = ("08", "53", "57", "40", "55P03", "25006", "28", "3D000")

log = structlog.stdlib.get_logger("taskflow.database")


def violated_constraint(error: DBAPIError) -> str | None:
    """The name of the constraint that refused a write, which tells what was taken or missing."""
    cause = error.orig.__cause__ if error.orig else None
    name: str | None = getattr(cause, "constraint_name", None)
    return name


def sqlstate_of(error: DBAPIError) -> str:
    """PostgreSQL's code for what went wrong; empty if the fault was found on our side."""
    return getattr(error.orig, "sqlstate", None) or ""


def as_error(exception: BaseException) -> APIError:
    """The error that clients are shown for any exception: what passes is a 503, a bug is a 500."""
    match exception:
        case PoolTimeoutError():
            return Overloaded()
        case DBAPIError():
            cause = exception.orig.__cause__ if exception.orig else None
            if (
                exception.connection_invalidated
                or sqlstate_of(exception).startswith(UNAVAILABLE_SQLSTATES)
                # A migration has changed a table under a prepared statement; the next one is new.
                or isinstance(cause, asyncpg.InvalidCachedStatementError)
            ):
                return DatabaseUnavailable()
            return InternalError()
        case OSError():
            # Raised while connecting, where SQLAlchemy wraps only what the server said.
            return DatabaseUnavailable()
    return as_api_error(exception)


def report(exception: BaseException) -> APIError:
    """`as_error`, with a line in the log that tells the operator why.

    The text of a database's error is left out: its DETAIL may hold whole rows.
    """
    error = as_error(exception)
    if isinstance(exception, DBAPIError | PoolTimeoutError | OSError):
        facts = {
            "error": type(getattr(exception, "orig", None) or exception).__name__,
            "sqlstate": getattr(getattr(exception, "orig", None), "sqlstate", None),
        }
        if isinstance(exception, IntegrityError):
            facts["constraint"] = violated_constraint(exception)
        if isinstance(error, InternalError):
            where = "".join(traceback.format_tb(exception.__traceback__))
            log.error("unhandled error", where=where, **facts)
        else:
            log.warning(error.code, **facts)
    elif isinstance(error, InternalError):
        log.error("unhandled error", exc_info=exception)
    return error
