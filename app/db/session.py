"""The way to the database: one pool, two ways to use it, and the only place that commits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from app.core.errors import (
    APIError,
    DatabaseUnavailable,
    InternalError,
    Overloaded,
    as_api_error,
)
from app.core.settings import Settings

READINESS_TIMEOUT_SECONDS = 1.5

# The classes and codes of SQLSTATE that blame the database and not the statement: connection
# exceptions, insufficient resources, operator intervention (shutdown, a cancelled statement),
# transaction rollback (deadlock, serialization), lock not available, a read-only server, and a
# server that does not let us in (wrong password, no such database).
UNAVAILABLE_SQLSTATES = ("08", "53", "57", "40", "55P03", "25006", "28", "3D000")


class Database:
    """One engine and its pool, in two uses.

    A statement that stands alone needs no transaction: `session()` is in AUTOCOMMIT, where each
    statement is durable when it returns. `transaction()` is for several that belong together.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = create_async_engine(
            settings.required_database_url,
            isolation_level="AUTOCOMMIT",
            pool_size=settings.database_pool_size,
            max_overflow=0,
            pool_timeout=settings.database_pool_timeout,
            # Parameters hold password hashes and people's texts, which no log should.
            hide_parameters=True,
            connect_args={
                "timeout": settings.database_connect_timeout,
                "server_settings": {
                    "application_name": "taskflow",
                    # A handler whose client has gone is not cancelled; without this a few slow
                    # statements would hold the pool for good.
                    "statement_timeout": str(int(settings.database_statement_timeout * 1000)),
                    "timezone": "UTC",
                },
            },
        )
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
        try:
            async with asyncio.timeout(READINESS_TIMEOUT_SECONDS), self.session() as session:
                await session.execute(text("SELECT version_num FROM alembic_version"))
        except Exception:  # noqa: BLE001 - whatever the reason is, the answer is no
            return False
        return True

    async def close(self) -> None:
        await self.engine.dispose()


def get_database(request: Request) -> Database:
    """The application's database, for those that open a session of their own."""
    database: Database = request.app.state.database
    return database


async def get_session(request: Request) -> AsyncGenerator[AsyncSession]:
    async with get_database(request).session() as session:
        yield session


# With FastAPI's default scope the session would end after the answer is sent; what fails then
# would leave a client with a 2xx for nothing.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


def as_error(exception: Exception) -> APIError:
    """The error that clients are shown for any exception: what passes is a 503, a bug is a 500."""
    match exception:
        case PoolTimeoutError():
            return Overloaded()
        case DBAPIError():
            sqlstate = getattr(exception.orig, "sqlstate", None) or ""
            if exception.connection_invalidated or sqlstate.startswith(UNAVAILABLE_SQLSTATES):
                return DatabaseUnavailable()
            return InternalError()
        case OSError() | TimeoutError():
            # Raised while connecting, where SQLAlchemy wraps only what the server said.
            return DatabaseUnavailable()
    return as_api_error(exception)
