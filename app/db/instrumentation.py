"""The database as metrics and traces see it: statements on their connections, and the pool.

It is done on asyncpg's own connection, which every statement passes, whoever sends it.
"""

import logging
from collections.abc import Awaitable
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from prometheus_client import Histogram
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.metrics import CONNECTION_TIMEOUTS, OPERATIONS, PoolState
from app.core.tracing import is_traced, statement_span

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    # While it runs it takes no parameters.
    Connection = asyncpg.Connection

Result = TypeVar("Result")

PREPARE = "PREPARE"
OTHER = "OTHER"
# What statements begin with; those that begin with WITH may read or write.
NAMES = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "BEGIN", "COMMIT", "ROLLBACK", "COPY")
BY_PREFIX = {name[:4]: name for name in NAMES}
SECONDS: dict[str, Histogram] = {name: OPERATIONS.labels(name) for name in (*NAMES, PREPARE, OTHER)}


async def measured(name: str, text: str, work: Awaitable[Result]) -> Result:
    """Await what the database does for a statement, called `name` in metrics and traces."""
    started = perf_counter()
    try:
        if not is_traced():
            return await work
        with statement_span(name, text):
            return await work
    finally:
        SECONDS[name].observe(perf_counter() - started)


def operation_name(text: str) -> str:
    """What kind of statement this is, out of few."""
    return BY_PREFIX.get(text[:4], OTHER)


class MeasuredStatement:
    """A prepared statement. Its cursors are opened by `await`, and what they fetch is not seen."""

    def __init__(self, prepared: "asyncpg.prepared_stmt.PreparedStatement[Any]") -> None:
        self._prepared = prepared
        self._text = prepared.get_query()
        self._name = operation_name(self._text)

    def fetch(self, *args: Any) -> Awaitable[Any]:  # noqa: ANN401 - asyncpg's own
        return measured(self._name, self._text, self._prepared.fetch(*args))

    def cursor(self, *args: Any) -> Awaitable[Any]:  # noqa: ANN401 - asyncpg's own
        return measured(self._name, self._text, self._prepared.cursor(*args))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - asyncpg's own
        return getattr(self._prepared, name)


class MeasuredConnection(Connection):
    """A connection whose statements are counted, timed and traced."""

    async def prepare(self, query: str, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        prepared = await measured(PREPARE, query, super().prepare(query, **options))
        return MeasuredStatement(prepared)

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().execute(query, *args, **options)
        return await measured(operation_name(query), query, work)

    async def executemany(self, command: str, args: Any, **options: Any) -> None:  # noqa: ANN401 - asyncpg's own
        work = super().executemany(command, args, **options)
        return await measured(operation_name(command), command, work)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().fetch(query, *args, **options)
        return await measured(operation_name(query), query, work)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().fetchrow(query, *args, **options)
        return await measured(operation_name(query), query, work)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().fetchval(query, *args, **options)
        return await measured(operation_name(query), query, work)


# As quiet as SQLAlchemy's own pools.
logging.getLogger(f"{__name__}.MeasuredPool").setLevel(logging.WARNING)


class MeasuredPool(AsyncAdaptedQueuePool):
    """A pool that knows how many wait for a connection of it."""

    awaited = 0

    def _do_get(self) -> ConnectionPoolEntry:
        self.awaited += 1
        try:
            return super()._do_get()
        except PoolTimeoutError:
            CONNECTION_TIMEOUTS.inc()
            raise
        finally:
            self.awaited -= 1

    def state(self) -> PoolState:
        return PoolState(
            maximum=self.size(),
            used=self.checkedout(),
            idle=self.checkedin(),
            awaited=self.awaited,
        )
