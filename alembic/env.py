"""Runs migrations over asyncpg: online against a database, or offline as SQL to review."""

import asyncio

from sqlalchemy import Connection, pool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from alembic import context
from app.core.settings import Pooler, load_settings
from app.db.errors import LOCK_NOT_AVAILABLE, sqlstate_of
from app.db.registry import metadata
from app.db.session import make_engine

# Any constant will do, as long as every node takes the same one.
MIGRATION_LOCK = 7_242_001
CONNECT_TIMEOUT_SECONDS = 10
# While a migration waits for a table, everybody else waits behind it: so for less than a request
# waits for a connection.
LOCK_TIMEOUT = "500ms"
LOCK_ATTEMPTS = 30
SECONDS_BETWEEN_ATTEMPTS = 1


def _database() -> tuple[str, Pooler]:
    """The database's URL, and what kind of pooler it leads to."""
    attributes = context.config.attributes
    if "database_url" in attributes:
        return attributes["database_url"], attributes["pooler"]
    settings = load_settings()
    if settings.database_url is None:
        raise SystemExit("DATABASE_URL is not set; in development use: taskflow migrate")
    return settings.required_database_url, settings.database_pooler


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        # It takes as long as it takes, whatever holds for others behind a pooler.
        context.execute("SET LOCAL statement_timeout = 0")
        context.execute("SET LOCAL lock_timeout = 0")
        # Nodes that are rolled out together all migrate: the first does it, the others wait here
        # and then find nothing left to do.
        context.execute(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        context.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        context.run_migrations()


async def _migrate_when_tables_are_free(connection: AsyncConnection) -> None:
    """Begin again, after a pause for others, when a table is locked for too long."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            await connection.run_sync(_migrate)
            await connection.commit()
        except DBAPIError as error:
            if sqlstate_of(error) != LOCK_NOT_AVAILABLE:
                raise
            await connection.rollback()
            await asyncio.sleep(SECONDS_BETWEEN_ATTEMPTS)
        else:
            return
    raise SystemExit(
        "taskflow: another session keeps a table locked, such as a long transaction. Nothing was "
        "migrated; pg_stat_activity tells which. Then run it again."
    )


async def _migrate_online() -> None:
    url, pooler = _database()
    engine = make_engine(
        url,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        settings={"application_name": "taskflow migrate"},
        pooler=pooler,
        poolclass=pool.NullPool,
    )
    try:
        async with engine.connect() as connection:
            await _migrate_when_tables_are_free(connection)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(_migrate_online())
