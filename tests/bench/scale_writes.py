"""What it costs to write where millions of tasks are, and how much of that each index takes."""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import asyncpg

from app.tasks.batch.queries import WRITTEN
from tests.bench.data import Person
from tests.bench.processes import processor_seconds
from tests.bench.scale_data import TABLE

# Each is inserted three times for each index, at a tenth of a millisecond.
ROWS = 10_000
ROUNDS = 3
_ALL = "(all indexes)"
_COLUMNS = ", ".join(one.name for one in WRITTEN if one.name != "id")


async def backends_of(url: str, application: str = "taskflow") -> list[int]:
    """The process ids of the server's side of an application's connections."""
    connection = await asyncpg.connect(url)
    try:
        sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1"
        return [row["pid"] for row in await connection.fetch(sql, application)]
    finally:
        await connection.close()


async def _insert(
    connection: "asyncpg.Connection[asyncpg.Record]", pid: int, without: str | None, rows: int
) -> tuple[float, float]:
    """Microseconds a row, elapsed and of the processor, without one of the indexes."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        if without is not None:
            # It is there again when this is rolled back, as it was.
            await connection.execute(f"DROP INDEX {without}")
        processor, begun = processor_seconds(pid), time.perf_counter()
        await connection.execute(f"INSERT INTO tasks ({_COLUMNS}) SELECT {_COLUMNS} FROM new_tasks")
        elapsed = time.perf_counter() - begun
        return elapsed / rows * 1e6, (processor_seconds(pid) - processor) / rows * 1e6
    finally:
        await transaction.rollback()


async def _index_costs(url: str, person: Person, say: Callable[[str], None]) -> dict[str, Any]:
    connection = await asyncpg.connect(url)
    try:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        await connection.execute(
            f"CREATE TEMP TABLE new_tasks AS SELECT {_COLUMNS} FROM tasks"
            f" WHERE owner_id = {person.id} ORDER BY id LIMIT {ROWS}"
        )
        # Those of today, in no order but that of their creation; names are unique.
        await connection.execute(
            "UPDATE new_tasks SET created_at = now() + random() * interval '1 s', updated_at ="
            " now() + (1 + random()) * interval '1 s', external_id = 'new/' || external_id"
        )
        rows = await connection.fetchval("SELECT count(*) FROM new_tasks")
        names: list[str | None] = [None, *sorted(str(one.name) for one in TABLE.indexes)]
        costs: dict[str | None, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(ROUNDS):
            for name in names:
                costs[name].append(await _insert(connection, pid, name, rows))
            # What was rolled back is no part of the next round.
            await connection.execute("VACUUM tasks")
        sizes = {
            row["name"]: row["size"]
            for row in await connection.fetch(
                "SELECT indexrelid::regclass::text AS name, pg_relation_size(indexrelid) AS size"
                " FROM pg_index WHERE indrelid = 'tasks'::regclass"
            )
        }
    finally:
        await connection.close()
    whole = costs[None]
    say(f"\n{'Microseconds a row':44}{'elapsed':>9}{'processor':>11}{'size MB':>9}")
    table: dict[str, Any] = {}
    for name in names:
        # Rounds are compared with themselves.
        parts = [
            (elapsed, processor)
            if name is None
            else (all_elapsed - elapsed, all_processor - processor)
            for (elapsed, processor), (all_elapsed, all_processor) in zip(
                costs[name], whole, strict=True
            )
        ]
        cells = {
            "elapsed_us": round(statistics.median(part[0] for part in parts), 1),
            "processor_us": round(statistics.median(part[1] for part in parts), 1),
            "megabytes": round(sizes.get(name or "", 0) / 1e6),
        }
        table[name or _ALL] = cells
        say(
            f"{name or _ALL:44}{cells['elapsed_us']:>9}{cells['processor_us']:>11}"
            f"{cells['megabytes']:>9}"
        )
    return table


def index_costs(url: str, person: Person, say: Callable[[str], None]) -> dict[str, Any]:
    """The cost of each index per inserted row: what is saved without it, of inserts of 10,000."""
    return asyncio.run(_index_costs(url, person, say))
