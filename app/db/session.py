"""The way to the database: one pool, four ways to use it, and the only place that commits."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import Context
from functools import partial
from typing import Annotated, Any, cast

import asyncpg
from fastapi import Depends, Request
from pydantic_core import from_json
from sqlalchemy import NullPool, text
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.util.concurrency import greenlet_spawn

from app.core.metrics import PoolState
from app.core.settings import Pooler, Settings
from app.db.errors import report
from app.db.instrumentation import MeasuredConnection, MeasuredPool
from app.db.pooler import SETTINGS_THAT_POOLERS_PASS_ON, PooledConnection
from app.db.servers import Server, Servers, fault_within, watched
from app.db.statements import Statement

Rows = Sequence[Mapping[str, Any]]

READINESS_TIMEOUT_SECONDS = 1.5
# Where a route that has begun a transaction for the whole request leaves it.
REQUEST_TRANSACTION = "taskflow.transaction"
CLOSE_WITHIN_SECONDS = 1
# How many seconds after the server's own limit we give up on a statement: the server has gone then.
SERVER_IS_GONE_AFTER = 1


class _WhenAwaited:
    """An awaitable that calls an async function only when it is awaited.

    SQLAlchemy asks for it before it finds out whether it can wait, and outside of a greenlet drops
    it again. Of a coroutine Python would then warn that it was never awaited.
    """

    def __init__(self, function: Callable[[], Awaitable[object]]) -> None:
        self._function = function

    def __await__(self) -> Generator[Any, None, object]:
        return self._function().__await__()


def milliseconds(seconds: float) -> str:
    """A time limit as a setting of the server, where 0 would mean that there is none."""
    return str(max(1, round(seconds * 1000)))


def make_engine(
    database_url: str,
    *,
    connect_timeout: float,
    command_timeout: float | None = None,
    settings: dict[str, str],
    servers: Servers | None = None,
    pooler: Pooler = "none",
    **options: Any,  # noqa: ANN401 - SQLAlchemy's own
) -> AsyncEngine:
    """An engine over asyncpg, which reads the URL itself and so knows all parameters of libpq.

    The timeouts are in seconds, `settings` are the server's, `options` are SQLAlchemy's. Engines
    that share `servers` share what is known about them.
    """
    known = servers or Servers(database_url)
    driver: dict[str, Any] = {"connection_class": MeasuredConnection}
    settings = {"application_name": "taskflow", "timezone": "UTC", **settings}
    if pooler == "transaction":
        driver = {"connection_class": PooledConnection, "statement_cache_size": 0}
        # Others are refused: the pooler's own file has them.
        settings = {name: settings[name] for name in SETTINGS_THAT_POOLERS_PASS_ON}

    async def open_one(server: Server, seconds: float) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            database_url,
            **server._asdict(),
            timeout=seconds,
            command_timeout=command_timeout,
            server_settings=settings,
            **driver,
        )

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await known.connect(open_one, seconds=connect_timeout)

    return create_async_engine(
        "postgresql+asyncpg://",
        # Its type asks for a coroutine, and any awaitable does.
        async_creator=lambda: cast("Any", _WhenAwaited(connect)),
        # Parameters hold password hashes and people's texts, which no log should.
        hide_parameters=True,
        # In Rust: a list decodes the metadata of each of its tasks.
        json_deserializer=partial(from_json, cache_strings="keys"),
        **options,
    )


class Database:
    """One engine and its pool, in four uses.

    A statement that stands alone needs no transaction: it is durable when it returns. `fetch` runs
    one that was compiled before; `begin()` is for several of them that belong together. What
    SQLAlchemy builds anew runs in `session()`, and in `transaction()` if it belongs together.
    """

    def __init__(self, settings: Settings) -> None:
        # Without a limit a few slow statements would hold the pool for good while their clients
        # wait. The server's own limit comes first; ours is for a server that has fallen silent.
        limit = settings.database_statement_timeout
        limits = {
            "statement_timeout": limit,
            "lock_timeout": settings.database_lock_timeout,
            "idle_in_transaction_session_timeout": settings.database_idle_transaction_timeout,
        }
        common: dict[str, Any] = {
            "connect_timeout": settings.database_connect_timeout,
            "settings": {name: milliseconds(seconds) for name, seconds in limits.items()},
            "pooler": settings.database_pooler,
            "command_timeout": limit + SERVER_IS_GONE_AFTER,
            "isolation_level": "AUTOCOMMIT",
        }
        self._url = settings.required_database_url
        common["servers"] = self.servers = Servers(self._url)
        self.engine = make_engine(
            self._url,
            poolclass=MeasuredPool,
            pool_size=settings.database_pool_size,
            max_overflow=0,
            pool_timeout=settings.database_pool_timeout,
            **common,
        )
        # Readiness asks the database and not the pool: a busy node is no dead one.
        self._probe = make_engine(self._url, poolclass=NullPool, **common)
        self._asking: asyncio.Task[bool] | None = None
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._transactions = async_sessionmaker(
            self.engine.execution_options(isolation_level="READ COMMITTED"), expire_on_commit=False
        )

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        """Run a statement that stands alone, and return its rows.

        Enums come as text. Errors are asyncpg's own; `TimeoutError` of SQLAlchemy for a pool that
        has no connection to spare.
        """
        arguments = statement.arguments(values)
        pool = self.pool
        connection = await self._borrow(pool)
        try:
            return await _fetch(connection, statement, arguments)
        finally:
            pool.take_back(connection)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator["Transaction"]:
        """A READ COMMITTED transaction, committed when the block ends well.

        Raises what `fetch` raises.
        """
        pool = self.pool
        connection = await self._borrow(pool)
        has_begun = False
        try:
            async with connection.transaction(isolation="read_committed"):
                has_begun = True
                yield Transaction(connection)
        finally:
            if not connection.is_closed() and (connection.is_in_transaction() or not has_begun):
                # The rollback was cut short, or the beginning, of which the server may know before
                # we do: whoever is next would write into what is left.
                connection.terminate()
            pool.take_back(connection)

    async def _borrow(self, pool: MeasuredPool) -> MeasuredConnection:
        try:
            # One that is open is there at once, and so is one that comes back; SQLAlchemy's way of
            # waiting would take as long as a query.
            if pool.has_idle():
                return pool.lend()
            if pool.is_exhausted():
                return await pool.lend_in_turn()
        except MissingGreenlet:
            # It is to be opened anew, which has to be waited for.
            pass
        return await greenlet_spawn(pool.lend)

    def session(self) -> AsyncSession:
        """A session in AUTOCOMMIT; use it as an async context manager."""
        return self._sessions()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncSession]:
        """A session in one READ COMMITTED transaction, committed when the block ends well."""
        async with self._transactions.begin() as session:
            yield session

    @property
    def pool(self) -> MeasuredPool:
        return self.engine.sync_engine.pool  # type: ignore[return-value]  # of the class that it is told

    def pool_state(self) -> PoolState:
        """How the pool is used at the moment."""
        return self.pool.state()

    def watched(self) -> AbstractAsyncContextManager[None]:
        """While the block runs, whoever waits for a server that has fallen silent gets an error."""

        async def open_one(server: Server, seconds: float) -> "asyncpg.Connection[asyncpg.Record]":
            return await asyncpg.connect(self._url, **server._asdict(), timeout=seconds)

        return watched(self.servers, self.pool, open_one)

    async def is_ready(self) -> bool:
        """Whether the database answers within 1.5 seconds, and was ever migrated.

        Those who ask at the same time share one look: anybody may ask, and each look takes one of
        the connections that the server has for all.
        """
        if self._asking is None or self._asking.done():
            # What it logs carries no request's id: it is asked for several.
            self._asking = asyncio.create_task(self._answers(), context=Context())
        return await asyncio.shield(self._asking)

    async def _answers(self) -> bool:
        error = await fault_within(READINESS_TIMEOUT_SECONDS, self._ask())
        if error is not None:
            report(error)
        return error is None

    async def _ask(self) -> None:
        async with self._probe.connect() as connection:
            await connection.execute(text("SELECT version_num FROM alembic_version"))

    async def close(self) -> None:
        """Close all connections; cut those whose server does not answer that within a second."""
        if self._asking is not None:
            self._asking.cancel()
        pool = self.pool
        closing = asyncio.gather(self.engine.dispose(), self._probe.dispose())
        await asyncio.wait({closing}, timeout=CLOSE_WITHIN_SECONDS)
        if not closing.done():
            for server in self.servers.all:
                pool.end_all_to(server)
        await closing


def get_database(request: Request) -> Database:
    """The application's database, for those that open a session of their own."""
    database: Database = request.app.state.database
    return database


async def _fetch(
    connection: MeasuredConnection, statement: Statement, arguments: Sequence[Any]
) -> Rows:
    rows: Rows
    if statement.planned_anew:
        # One that is kept would get a plan for all values after its fifth use.
        prepared = await connection.prepare(statement.sql, name="")
        rows = await prepared.fetch(*arguments)
    else:
        rows = await connection.fetch(statement.sql, *arguments)
    return rows


class Session:
    """What runs compiled statements: each alone, or where others have begun something."""

    def __init__(self, through: Database | MeasuredConnection | AsyncSession) -> None:
        self._through = through

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        """The rows of a compiled statement, with enums as text."""
        match self._through:
            case Database() as database:
                return await database.fetch(statement, values)
            case AsyncSession() as session:
                connection = await session.connection()
                arguments = tuple(statement.arguments(values))
                result = await connection.exec_driver_sql(statement.sql, arguments)
                return cast("Rows", result.mappings().all())
            case driver:
                return await _fetch(driver, statement, statement.arguments(values))


class Transaction(Session):
    """Compiled statements in one transaction, on the connection that has begun it."""

    def __init__(self, connection: MeasuredConnection) -> None:
        super().__init__(connection)
        self._connection = connection

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A block that is undone as a whole if it raises, while the transaction goes on."""
        return self._connection.transaction()


async def get_session(request: Request) -> Session:
    begun: Transaction | None = request.scope.get(REQUEST_TRANSACTION)
    return begun or Session(get_database(request))


async def get_transaction(request: Request) -> AbstractAsyncContextManager[Transaction]:
    begun: Transaction | None = request.scope.get(REQUEST_TRANSACTION)
    return nullcontext(begun) if begun else get_database(request).begin()


async def get_orm_session(request: Request) -> AsyncGenerator[AsyncSession]:
    async with get_database(request).session() as session:
        yield session


async def get_orm_transaction(request: Request) -> AsyncGenerator[AsyncSession]:
    async with get_database(request).transaction() as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]
TransactionDep = Annotated[AbstractAsyncContextManager[Transaction], Depends(get_transaction)]
"""A transaction, begun when its block is entered: a connection is held for no longer."""
# The scope is for routes that are FastAPI's own, where by default these would end after the answer
# is sent: what fails then would leave a client with a 2xx for nothing. `Endpoint` knows no other.
OrmSessionDep = Annotated[AsyncSession, Depends(get_orm_session, scope="function")]
"""For what is rarely asked: SQLAlchemy's own session, in AUTOCOMMIT."""
OrmTransactionDep = Annotated[AsyncSession, Depends(get_orm_transaction, scope="function")]
"""The same in one READ COMMITTED transaction."""
