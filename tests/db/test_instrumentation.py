"""Every way to send a statement over a connection is seen."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from app.core.metrics import REGISTRY
from app.db.instrumentation import MeasuredConnection

Send = Callable[["asyncpg.Connection[Any]"], Awaitable[Any]]


@pytest.fixture
async def connection(server_url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await asyncpg.connect(server_url, connection_class=MeasuredConnection)
    await connection.execute("CREATE TEMPORARY TABLE t (a integer)")
    yield connection
    await connection.close()


async def prepared_fetch(connection: "asyncpg.Connection[Any]") -> None:
    await (await connection.prepare("SELECT a FROM t WHERE a = $1")).fetch(1)


async def prepared_cursor(connection: "asyncpg.Connection[Any]") -> None:
    async with connection.transaction():
        statement: Any = await connection.prepare("SELECT a FROM t")
        assert await (await statement.cursor()).fetch(5) == []


@pytest.mark.parametrize(
    ("send", "kinds"),
    [
        (lambda c: c.execute("INSERT INTO t VALUES (1)"), {"INSERT": 1}),
        (lambda c: c.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)]), {"INSERT": 1}),
        (lambda c: c.fetch("SELECT a FROM t"), {"SELECT": 1}),
        (lambda c: c.fetchrow("UPDATE t SET a = 1 RETURNING a"), {"UPDATE": 1}),
        (lambda c: c.fetchval("DELETE FROM t RETURNING a"), {"DELETE": 1}),
        (lambda c: c.fetch("WITH x AS (SELECT 1) TABLE x"), {"WITH": 1}),
        (lambda c: c.execute("ANALYZE t"), {"OTHER": 1}),
        (prepared_fetch, {"PREPARE": 1, "SELECT": 1}),
        (prepared_cursor, {"BEGIN": 1, "PREPARE": 1, "SELECT": 1, "COMMIT": 1}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
async def test_each_statement_is_counted_once_by_its_kind(
    connection: "asyncpg.Connection[Any]", send: Send, kinds: dict[str, int]
) -> None:
    before = counts()
    await send(connection)
    after = counts()

    added = {kind: after[kind] - before[kind] for kind in after}
    assert {kind: count for kind, count in added.items() if count} == kinds


async def test_a_statement_that_fails_is_counted_and_its_error_passes(
    connection: "asyncpg.Connection[Any]",
) -> None:
    before = counts()
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.fetch("SELECT 1 FROM nothing")

    assert counts()["SELECT"] == before["SELECT"] + 1


def counts() -> dict[str, float]:
    return {
        sample.labels["db_operation_name"]: sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "db_client_operation_duration_seconds_count"
    }
