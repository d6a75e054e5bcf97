"""Waiting for those who wait."""

import asyncio

from sqlalchemy import text

from app.db.session import Database


async def wait_until_waiting(database: Database, statement: str, count: int = 1) -> None:
    """Return once `count` backends wait for a lock in statements that begin so."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND query LIKE :statement || '%'"
    )
    async with asyncio.timeout(10):
        async with database.session() as session:
            while await session.scalar(query, {"statement": statement}) != count:
                pass
