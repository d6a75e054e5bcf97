"""The way to the database: one pool, two ways to use it, and the only place that commits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, Request
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from app.core.settings import Settings
from app.db.errors import report

READINESS_TIMEOUT_SECONDS = 1.5
# Where a route that has begun a transaction for the whole request leaves its session.
REQUEST_TRANSACTION = "taskflow.transaction"
# How much later than the server, in seconds, we give up on a statement.
SERVER_IS_GONE_AFTER = 1


def make_engine(
    database_url: str,
    *,
    connect_timeout: float,
    command_timeout: float | None = None,
    settings: dict[str, str],
    **options: Any,  # noqa: ANN401 - SQLAlchemy's own
) -> AsyncEngine:
    """An engine over asyncpg, which reads the URL itself and so knows all parameters of libpq.

    The timeouts are in seconds, `settings` are the server's, `options` are SQLAlchemy's.
    """

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            database_url,
            timeout=connect_timeout,
            command_timeout=command_timeout,
            server_settings={"application_name": "taskflow", "timezone": "UTC", **settings},
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        # Parameters hold password hashes and people's texts, which no log should.
        hide_parameters=True,
        **options,
    )


class Database:
    """One engine and its pool, in two uses.

    A statement that stands alone needs no transaction: `session()` is in AUTOCOMMIT, where each
    statement is durable when it returns. `transaction()` is for several that belong together.
    """

    def __init__(self, settings: Settings) -> None:
        # A handler whose client has gone is not cancelled; without a limit a few slow statements
        # would hold the pool for good. The server's limit goes first, ours is for a server that
        # does not say anything any more.
        limit = settings.database_statement_timeout
        common: dict[str, Any] = {
            "connect_timeout": settings.database_connect_timeout,
            "settings": {"statement_timeout": str(int(limit * 1000))},
            "command_timeout": limit + SERVER_IS_GONE_AFTER,
            "isolation_level": "AUTOCOMMIT",
        }
        self.engine = make_engine(
            settings.required_database_url,
            pool_size=settings.database_pool_size,
            max_overflow=0,
            pool_timeout=settings.database_pool_timeout,
            **common,
        )
        # Readiness asks the database and not the pool: a busy node is no dead one.
        self._probe = make_engine(settings.required_database_url, poolclass=NullPool, **common)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._transactions = async_sessionmaker(
            self.engine.execution_options(isolation_level="READ COMMITTED"), expire_on_commit=False
        )

    def session(self) -> AsyncSession:
        """A session in AUTOCOMMIT; use it as an async context manager."""
        return self._sessions()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncSession]:
        """A session in one READ COMMITTED transaction, committed when the block ends well."""
        async with self._transactions.begin() as session:
            yield session

    async def is_ready(self) -> bool:
        """Whether the database answers within 1.5 seconds, and was ever migrated."""
        asking = asyncio.create_task(self._ask())
        # Not asyncio.timeout(): it would wait for the connection to close, which takes a server.
        await asyncio.wait({asking}, timeout=READINESS_TIMEOUT_SECONDS)
        if not asking.done():
            asking.cancel()
            report(TimeoutError())
            return False
        if (error := asking.exception()) is not None:
            report(error)
        return error is None

    async def _ask(self) -> None:
        async with self._probe.connect() as connection:
            await connection.execute(text("SELECT version_num FROM alembic_version"))

    async def close(self) -> None:
        await self.engine.dispose()
        await self._probe.dispose()


def get_database(request: Request) -> Database:
    """The application's database, for those that open a session of their own."""
    database: Database = request.app.state.database
    return database


async def get_session(request: Request) -> AsyncGenerator[AsyncSession]:
    if (begun := request.scope.get(REQUEST_TRANSACTION)) is not None:
        yield begun
        return
    async with get_database(request).session() as session:
        yield session


async def get_transaction(request: Request) -> AsyncGenerator[AsyncSession]:
    if (begun := request.scope.get(REQUEST_TRANSACTION)) is not None:
        yield begun
        return
    async with get_database(request).transaction() as session:
        yield session


# With FastAPI's default scope the session would end after the answer is sent; what fails then
# would leave a client with a 2xx for nothing.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
TransactionDep = Annotated[AsyncSession, Depends(get_transaction, scope="function")]
