"""What the database's refusals mean, to clients and to whoever reads the log."""

import re
import traceback

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.errors import APIError, DatabaseUnavailable, InternalError, Overloaded, as_api_error

LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK = "40P01"
# The classes and codes of SQLSTATE that blame the database and not the statement: connection
# exceptions, insufficient resources, operator intervention (shutdown, a cancelled statement),
# transaction rollback (serialization, say), a read-only server, a transaction that was idle for too
# long, and a server that does not let us in (wrong password, no such database).
UNAVAILABLE_SQLSTATES = (
    "08",
    "53",
    "57",
    "40",
    "25006",
    "25P03",
    "28",
    "3D000",
)

_HELD_BY_OTHERS = {LOCK_NOT_AVAILABLE, DEADLOCK}

log = structlog.stdlib.get_logger("taskflow.database")

DATABASE_ERRORS = (
    DBAPIError,
    PoolTimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
)
"""What a call to the database may raise: SQLAlchemy's, asyncpg's own, and the connection's."""

# What is raised by SQLAlchemy's sessions, and by asyncpg itself.
ConstraintViolations = (IntegrityError, asyncpg.IntegrityConstraintViolationError)


def _of_the_driver(error: BaseException) -> BaseException | None:
    """Asyncpg's own exception, which SQLAlchemy wraps twice."""
    if isinstance(error, DBAPIError):
        return error.orig.__cause__ if error.orig else None
    return error


def violated_constraint(error: BaseException) -> str | None:
    """The name of the constraint that refused a write, which tells what was taken or missing.

    A partition's, and a shard's, has a number behind the name of the whole table's.
    """
    name: str | None = getattr(_of_the_driver(error), "constraint_name", None)
    return name and re.sub(r"_\d+$", "", name)


def sqlstate_of(error: BaseException) -> str:
    """PostgreSQL's code for what went wrong; empty if the fault was found on our side."""
    refusal = error.orig if isinstance(error, DBAPIError) else error
    return getattr(refusal, "sqlstate", None) or ""


def _is_transient(error: BaseException) -> bool:
    """Whether the database is to blame and not the statement, which may succeed later."""
    cause = _of_the_driver(error)
    return (
        sqlstate_of(error).startswith(UNAVAILABLE_SQLSTATES)
        # A migration has changed a table under a prepared statement, or the server has just ended
        # the connection; the next one is new.
        or isinstance(cause, asyncpg.InvalidCachedStatementError | asyncpg.InternalClientError)
        or (isinstance(cause, asyncpg.InterfaceError) and "closed" in str(cause))
    )


_HINTS = {
    # PgBouncer says so of a wrong password, an unknown database and a server that it cannot reach.
    "08P01": "a pooler does not let us through to the database. Check DATABASE_URL and the pooler.",
    "28": "the database does not let this user in. Check the name and password in DATABASE_URL.",
    "3D000": "the server has no database of this name. Check DATABASE_URL, or create it.",
    "57014": "a statement took longer than it may. Try again, or raise DATABASE_STATEMENT_TIMEOUT.",
    "42P01": "the database has no tables of taskflow. Make them with: taskflow migrate",
    "42501": "the user in DATABASE_URL may not do this in the database. Grant it the right to.",
}


def _hint(error: BaseException) -> str | None:
    state = sqlstate_of(error)
    return next((hint for start, hint in _HINTS.items() if state.startswith(start)), None)


def in_words(error: BaseException) -> str | None:
    """What an operator can do about a fault of the database; None if it is a bug."""
    if (hint := _hint(error)) is not None:
        return hint
    match as_error(error):
        case Overloaded():
            return "others keep a row or a table of the database; try again."
        case DatabaseUnavailable():
            return "the database does not answer. Check DATABASE_URL and the server."
    return None


def as_error(exception: BaseException) -> APIError:
    """What clients are shown for any exception: transient faults are a 503, bugs are a 500."""
    match exception:
        case PoolTimeoutError():
            return Overloaded()
        case DBAPIError() if exception.connection_invalidated:
            return DatabaseUnavailable()
        case DBAPIError() | asyncpg.PostgresError() if sqlstate_of(exception) in _HELD_BY_OTHERS:
            # It answers: others had the row for longer than a statement waits, or waited for ours.
            return Overloaded()
        case ConnectionError() | TimeoutError():
            # Raised while connecting, where SQLAlchemy wraps only what the server said.
            return DatabaseUnavailable()
    if isinstance(exception, DATABASE_ERRORS):
        return DatabaseUnavailable() if _is_transient(exception) else InternalError()
    return as_api_error(exception)


def report(exception: BaseException) -> APIError:
    """`as_error`, with a line in the log that tells the operator why.

    The text of a database's error is left out: its DETAIL may hold whole rows.
    """
    error = as_error(exception)
    if isinstance(exception, DATABASE_ERRORS):
        facts = {
            "error": type(_of_the_driver(exception) or exception).__name__,
            "sqlstate": sqlstate_of(exception) or None,
        }
        if (hint := _hint(exception)) is not None:
            facts["hint"] = hint
        if isinstance(exception, ConnectionError):
            facts["reason"] = str(exception) or None
        if isinstance(exception, ConstraintViolations):
            facts["constraint"] = violated_constraint(exception)
        if isinstance(error, InternalError):
            where = "".join(traceback.format_tb(exception.__traceback__))
            log.error("unhandled error", where=where, **facts)
        else:
            log.warning(error.code, **facts)
    elif isinstance(error, InternalError):
        log.error("unhandled error", exc_info=exception)
    return error
