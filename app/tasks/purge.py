"""Removing for good what has had its time: by `taskflow purge`, and on a schedule in the service.

One process at a time does it, in batches that each are a short transaction of their own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import structlog
from sqlalchemy import Delete, delete, func, select

from app.core.metrics import PURGED_ROWS
from app.core.settings import Settings
from app.db.errors import report
from app.db.session import Database
from app.tasks.idempotency import delete_expired_keys
from app.tasks.models import Task

# Any constant will do, as long as every node takes the same one.
PURGE_LOCK = 7_242_002
BATCH = 1000
FIRST_AFTER_SECONDS = 60
EVERY_SECONDS = 3600

log = structlog.stdlib.get_logger("taskflow.purge")


def _trash_past_its_retention(settings: Settings) -> Delete:
    end = func.now() - timedelta(days=settings.trash_retention_days)
    # Rows that someone restores at this moment are left to the next time.
    oldest = (
        select(Task.id)
        .where(Task.deleted_at < end)
        .order_by(Task.deleted_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
        # As a subquery it could be run more than once, and find others each time.
        .cte("oldest")
    )
    return delete(Task).where(Task.id.in_(select(oldest.c.id)))


# What is removed, by what it is called in the log; each statement removes at most `BATCH` rows.
PURGES: dict[str, Callable[[Settings], Delete]] = {
    "tasks": _trash_past_its_retention,
    "idempotency_keys": lambda _: delete_expired_keys(BATCH),
}
PURGED = {kind: PURGED_ROWS.labels(kind) for kind in PURGES}


async def purge(database: Database, settings: Settings) -> dict[str, int] | None:
    """Remove what has had its time. Returns how many of each kind.

    Ends where another begins to do it; None if that one had begun before.
    """
    removed = dict.fromkeys(PURGES, 0)
    for kind, statement_for in PURGES.items():
        last = BATCH
        while last == BATCH:
            async with database.transaction() as session:
                # A lock of the transaction: behind a pooler there are no sessions to hold one.
                if not await session.scalar(select(func.pg_try_advisory_xact_lock(PURGE_LOCK))):
                    return removed if any(removed.values()) else None
                connection = await session.connection()
                last = (await connection.execute(statement_for(settings))).rowcount
            removed[kind] += last
            PURGED[kind].inc(last)
    return removed


async def _purge_regularly(database: Database, settings: Settings) -> None:
    pause = FIRST_AFTER_SECONDS
    while True:
        await asyncio.sleep(pause)
        pause = EVERY_SECONDS
        try:
            removed = await purge(database, settings)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            # The next time it may be well again.
            report(error)
        else:
            if removed is not None and any(removed.values()):
                log.info("purged", **removed)


@contextlib.asynccontextmanager
async def regular_purge(database: Database, settings: Settings) -> AsyncIterator[None]:
    """Purge while the block runs, a minute after its start and then every hour."""
    task = asyncio.create_task(_purge_regularly(database, settings))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
