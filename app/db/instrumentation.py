"""The database as metrics and traces see it: statements on their connections, and the pool.

It is done on asyncpg's own connection, which every statement passes, whoever sends it.
"""

import logging
from collections.abc import Awaitable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import asyncpg
from prometheus_client import Histogram
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.concurrency import greenlet_spawn
from sqlalchemy.util.queue import Empty

from app.core.metrics import CONNECTION_TIMEOUTS, OPERATIONS, PoolState
from app.core.tracing import is_traced, statement_span
from app.db.fair_queue import FairQueue

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


async def measured(
    connection: "MeasuredConnection", name: str, text: str, work: Awaitable[Result]
) -> Result:
    """Await what the database does for a statement, called `name` in metrics and traces."""
    started = perf_counter()
    try:
        if not is_traced():
            result = await work
        else:
            with statement_span(name, text):
                result = await work
    except asyncpg.ReadOnlySQLTransactionError:
        if connection.has_alternatives:
            # Another server may be the primary by now, to which the next connection leads.
            connection.terminate()
        raise
    except (asyncpg.InternalClientError, TimeoutError):
        # When a server stops, asyncpg's protocol fails before it knows that the connection closes.
        # One that said nothing in all the time that a statement has would cost the next as much.
        connection.terminate()
        raise
    else:
        connection.answers += 1
        return result
    finally:
        SECONDS[name].observe(perf_counter() - started)


def operation_name(text: str) -> str:
    """What kind of statement this is, out of few."""
    return BY_PREFIX.get(text[:4], OTHER)


class MeasuredStatement:
    """A prepared statement. Its cursors are opened by `await`, and what they fetch is not seen."""

    def __init__(
        self,
        connection: "MeasuredConnection",
        prepared: "asyncpg.prepared_stmt.PreparedStatement[Any]",
    ) -> None:
        self._connection = connection
        self._prepared = prepared
        self._text = prepared.get_query()
        self._name = operation_name(self._text)

    def fetch(self, *args: Any, **options: Any) -> Awaitable[Any]:  # noqa: ANN401 - asyncpg's own
        work = self._prepared.fetch(*args, **options)
        return measured(self._connection, self._name, self._text, work)

    def cursor(self, *args: Any) -> Awaitable[Any]:  # noqa: ANN401 - asyncpg's own
        return measured(self._connection, self._name, self._text, self._prepared.cursor(*args))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - asyncpg's own
        return getattr(self._prepared, name)


class MeasuredConnection(Connection):
    """A connection whose statements are counted, timed and traced."""

    server: object = None
    """Which of the URL's servers it leads to."""
    has_alternatives = False
    """Whether the URL names several servers."""
    answers = 0
    """How many statements have succeeded."""

    async def prepare(self, query: str, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        prepared = await measured(self, PREPARE, query, super().prepare(query, **options))
        return MeasuredStatement(self, prepared)

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().execute(query, *args, **options)
        return await measured(self, operation_name(query), query, work)

    async def executemany(self, command: str, args: Any, **options: Any) -> None:  # noqa: ANN401 - asyncpg's own
        work = super().executemany(command, args, **options)
        return await measured(self, operation_name(command), command, work)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().fetch(query, *args, **options)
        return await measured(self, operation_name(query), query, work)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().fetchrow(query, *args, **options)
        return await measured(self, operation_name(query), query, work)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        work = super().fetchval(query, *args, **options)
        return await measured(self, operation_name(query), query, work)


def _invalidate_if_closed(entry: ConnectionPoolEntry) -> None:
    """Have a connection opened anew before its next use if the server went away meanwhile."""
    connection: Any = entry.driver_connection
    if connection is not None and connection.is_closed():
        entry.invalidate(soft=True)


def _is_valid(entry: ConnectionPoolEntry) -> bool:
    """Whether the connection can be lent as it is, without being opened anew."""
    record: Any = entry
    # When one is found to be lost, all that were open at that time are invalidated.
    return not record._is_hard_or_soft_invalidated()  # noqa: SLF001 - as SQLAlchemy asks itself


# As quiet as SQLAlchemy's own pools.
logging.getLogger(f"{__name__}.MeasuredPool").setLevel(logging.WARNING)


class MeasuredPool(AsyncAdaptedQueuePool):
    """A pool that serves those who wait in order, and knows where its connections lead."""

    _queue_class = FairQueue
    awaited = 0

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - SQLAlchemy's own
        super().__init__(*args, **options)
        self._entries: WeakSet[ConnectionPoolEntry] = WeakSet()
        self._lent: dict[MeasuredConnection, ConnectionPoolEntry] = {}

    def _create_connection(self) -> ConnectionPoolEntry:
        entry = super()._create_connection()
        self._entries.add(entry)
        return entry

    def _do_get(self) -> ConnectionPoolEntry:
        self.awaited += 1
        try:
            entry = super()._do_get()
        except PoolTimeoutError:
            CONNECTION_TIMEOUTS.inc()
            raise
        finally:
            self.awaited -= 1
        _invalidate_if_closed(entry)
        return entry

    def has_idle(self) -> bool:
        """Whether a connection is there to be lent at once."""
        return not self._pool.empty()

    def is_exhausted(self) -> bool:
        """Whether one that is lent has to come back before the next can be lent."""
        return self._pool.empty() and self._overflow >= self._max_overflow

    def lend(self) -> MeasuredConnection:
        """An open connection, to be given back by `take_back`.

        It comes without the proxy that the pool's `connect` wraps it in, which is for transactions
        and takes half as long as the driver does for a statement. Raises what `connect` raises:
        `MissingGreenlet` if a connection has to be waited for outside of a greenlet.
        """
        return self._lend(self._do_get())

    async def lend_in_turn(self) -> MeasuredConnection:
        """`lend`, for when `is_exhausted`: waits until a connection comes back, without a greenlet.

        Only to open one anew takes a greenlet.
        """
        entry: ConnectionPoolEntry | None = None
        self.awaited += 1
        try:
            entry = await self._pool.get_in_turn(self._timeout)  # type: ignore[attr-defined]  # typed as any queue
        except Empty:
            pass
        finally:
            self.awaited -= 1
        if entry is not None:
            _invalidate_if_closed(entry)
            if _is_valid(entry):
                return self._lend(entry)
            return await greenlet_spawn(self._lend, entry)
        if not self.is_exhausted():
            # Somebody failed to open a connection meanwhile, and there is room for another.
            return await greenlet_spawn(self.lend)
        CONNECTION_TIMEOUTS.inc()
        raise PoolTimeoutError(f"no connection came back within {self._timeout} s")

    def _lend(self, entry: ConnectionPoolEntry) -> MeasuredConnection:
        record: Any = entry
        try:
            record.get_connection()
        except BaseException:
            record.checkin(_fairy_was_created=False)
            raise
        connection: MeasuredConnection = record.driver_connection
        self._lent[connection] = entry
        return connection

    def take_back(self, connection: MeasuredConnection) -> None:
        """Give a connection to whoever is next; one that is closed is opened anew."""
        record: Any = self._lent.pop(connection)
        if connection.is_closed():
            record.invalidate()
        record.checkin(_fairy_was_created=False)

    def _connections_to(self, server: object) -> Iterator[MeasuredConnection]:
        for entry in list(self._entries):
            connection: MeasuredConnection | None = entry.driver_connection
            if connection is not None and connection.server == server:
                yield connection

    def answers_of(self, server: object) -> int:
        """How many statements have succeeded on the connections there are to this server."""
        return sum(connection.answers for connection in self._connections_to(server))

    def uses(self, server: object) -> bool:
        """Whether somebody has a connection to this server."""
        lent = set(self._lent.values())
        return any(
            (entry.in_use or entry in lent)
            and getattr(entry.driver_connection, "server", None) == server
            for entry in list(self._entries)
        )

    def end_all_to(self, server: object) -> None:
        """End the connections to this server; who waits for an answer on one gets an error."""
        for connection in self._connections_to(server):
            connection.terminate()

    def state(self) -> PoolState:
        return PoolState(
            maximum=self.size(),
            used=self.checkedout(),
            idle=self.checkedin(),
            awaited=self.awaited,
        )
