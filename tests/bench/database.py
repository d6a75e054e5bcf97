"""A PostgreSQL of the benchmark's own, as durable as in production, on a real disk."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from app.db.embedded import embedded_database
from app.db.migrations import migrate

# Beyond PostgreSQL's defaults, which keep fsync, synchronous_commit and full_page_writes on. What
# is not said here is as in the development database: max_wal_size is 512 MB.
SETTINGS = {
    "shared_buffers": "1GB",
    "effective_cache_size": "4GB",
    "maintenance_work_mem": "512MB",
    # Disks that are no plates.
    "random_page_cost": "1.1",
    "effective_io_concurrency": "200",
    # Whole statements, which are compared.
    "track_activity_query_size": "16kB",
}
# /tmp may be in memory; this is where what lasts longer goes.
FOLDER = "/var/tmp"  # noqa: S108 - A folder of our own is made in it.


async def _configure(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for name, value in SETTINGS.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    finally:
        await connection.close()


@contextmanager
def benchmark_database() -> Iterator[str]:
    """The URL of a migrated database on a server of its own, which is thrown away afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="taskflow-bench-", dir=FOLDER, ignore_cleanup_errors=True
    ) as folder:
        # Some settings only hold from a start on.
        with embedded_database(Path(folder)) as database:
            asyncio.run(_configure(database.url))
        with embedded_database(Path(folder)) as database:
            migrate(database.url)
            yield database.url
