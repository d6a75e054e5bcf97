"""Emptying the trash after its retention, by hand and on a schedule."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.settings import Settings
from app.db.session import Database
from app.tasks import purge
from app.tasks.models import IdempotencyKey, Task
from tests.cli.support import taskflow
from tests.conftest import NewDatabase
from tests.support import run_sql, service_settings

ADA = (
    "INSERT INTO users (id, username, email, email_key, password_hash) VALUES (1, 'a', '', '', '')"
)
TASKS = "INSERT INTO tasks (owner_id, title, title_key, description, status, priority, "
TRASHED = (
    "deleted_at) SELECT 1, n, n, '', 'pending', 'low', now() - n * interval '1 day'"
    " + interval '1 hour' FROM generate_series(1, 40) n"
)
LIVE = (
    "created_at, updated_at)"
    " VALUES (1, 'live', 'live', '', 'pending', 'low', '2000-01-01', '2000-01-01')"
)
FILL = (ADA, TASKS + TRASHED, TASKS + LIVE)


@pytest.fixture
async def own(new_database: NewDatabase) -> AsyncIterator[tuple[Database, Settings]]:
    """A database with a live task, and one in the trash for each of the last forty days."""
    url = new_database()
    run_sql(url, *FILL)
    settings = service_settings(url)
    database = Database(settings)
    yield database, settings
    await database.close()


async def titles(database: Database) -> set[str]:
    async with database.session() as session:
        return set(await session.scalars(select(Task.title)))


async def test_what_is_older_than_the_retention_is_removed_and_nothing_else(
    own: tuple[Database, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, settings = own
    monkeypatch.setattr(purge, "BATCH", 3)

    assert await purge.purge(database, settings) == {"tasks": 10, "idempotency_keys": 0}
    assert await titles(database) == {"live", *(f"{day}" for day in range(1, 31))}
    assert await purge.purge(database, settings) == {"tasks": 0, "idempotency_keys": 0}
    shorter = settings.model_copy(update={"trash_retention_days": 0})
    assert await purge.purge(database, shorter) == {"tasks": 30, "idempotency_keys": 0}
    assert await titles(database) == {"live"}


async def test_while_one_purges_another_does_nothing(own: tuple[Database, Settings]) -> None:
    database, settings = own
    async with database.transaction() as session:
        lock = text("SELECT pg_advisory_xact_lock(:key)")
        await session.execute(lock, {"key": purge.PURGE_LOCK})
        assert await purge.purge(database, settings) is None
    assert await purge.purge(database, settings) == {"tasks": 10, "idempotency_keys": 0}


async def test_what_was_removed_before_another_began_is_told(
    own: tuple[Database, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, settings = own
    begin = database.transaction
    begun = 0
    async with begin() as other:

        @asynccontextmanager
        async def transaction() -> AsyncIterator[AsyncSession]:
            nonlocal begun
            begun += 1
            if begun == 3:
                await other.execute(select(func.pg_advisory_xact_lock(purge.PURGE_LOCK)))
            async with begin() as session:
                yield session

        monkeypatch.setattr(purge, "BATCH", 3)
        monkeypatch.setattr(database, "transaction", transaction)
        assert await purge.purge(database, settings) == {"tasks": 6, "idempotency_keys": 0}


async def test_a_task_that_is_being_restored_is_left_alone(own: tuple[Database, Settings]) -> None:
    database, settings = own
    async with database.transaction() as session:
        await session.execute(text("UPDATE tasks SET deleted_at = NULL WHERE title = '40'"))
        assert await purge.purge(database, settings) == {"tasks": 9, "idempotency_keys": 0}
    assert "40" in await titles(database)


async def test_a_key_that_is_being_taken_over_is_left_alone(
    own: tuple[Database, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, settings = own
    keys = text(
        "INSERT INTO idempotency_keys (owner_id, key, fingerprint, status, headers, body,"
        " created_at) SELECT 1, n, '', 201, '{}', '', now() - n * interval '59 min'"
        " FROM generate_series(20, 40) n"
    )
    async with database.session() as session:
        await session.execute(keys)
    monkeypatch.setattr(purge, "BATCH", 7)
    async with database.transaction() as session:
        taken = "UPDATE idempotency_keys SET created_at = now() WHERE key = '40'"
        await session.execute(text(taken))
        async with asyncio.timeout(10):
            assert (await purge.purge(database, settings) or {})["idempotency_keys"] == 15
    async with database.session() as session:
        left = set(await session.scalars(select(IdempotencyKey.key)))
    assert left == {"20", "21", "22", "23", "24", "40"}


async def test_the_service_purges_on_a_schedule_and_outlives_an_outage(
    own: tuple[Database, Settings],
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[dict[str, Any]],
) -> None:
    database, settings = own
    monkeypatch.setattr(purge, "FIRST_AFTER_SECONDS", 0)
    monkeypatch.setattr(purge, "EVERY_SECONDS", 0.01)
    real, calls, done = purge.purge, 0, asyncio.Event()

    async def sometimes_out(*arguments: Any) -> dict[str, int] | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionRefusedError
        removed = await real(*arguments)
        if calls == 3:
            done.set()
        return removed

    monkeypatch.setattr(purge, "purge", sometimes_out)
    async with purge.regular_purge(database, settings):
        await asyncio.wait_for(done.wait(), 20)
    assert not [task for task in asyncio.all_tasks() if "_purge_regularly" in str(task)]
    assert await titles(database) == {"live", *(f"{day}" for day in range(1, 31))}
    events = [line for line in log_lines if line["event"] in {"purged", "database_unavailable"}]
    assert [line["event"] for line in events] == ["database_unavailable", "purged"]
    assert events[1]["tasks"] == 10


def test_an_operator_can_purge_at_any_time(new_database: NewDatabase) -> None:
    url = new_database()
    run_sql(url, *FILL)

    def purged() -> str:
        done = taskflow("purge", DATABASE_URL=url, TRASH_RETENTION_DAYS="20")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert purged() == "Removed for good: tasks 20, idempotency keys 0.\n"
    # A loop factory keeps the Runner from unsetting the event loop of the tests around.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        connection = runner.run(asyncpg.connect(url))
        assert runner.run(connection.fetchval("SELECT count(*) FROM tasks")) == 21
        transaction = connection.transaction()
        runner.run(transaction.start())
        runner.run(connection.execute("SELECT pg_advisory_xact_lock($1)", purge.PURGE_LOCK))
        assert purged() == "Another process is purging; nothing was done here.\n"
        runner.run(connection.close())
