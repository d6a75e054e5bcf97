"""Transactions of compiled statements: what they leave behind, to the database and to the pool."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, String, bindparam, cast, func, literal, literal_column, select, text

from app.core.errors import DatabaseUnavailable
from app.db.errors import DATABASE_ERRORS, as_error
from app.db.pooler import PooledConnection
from app.db.session import Database, Transaction
from app.db.statements import Statement
from tests.support import service_settings

# Some statement whose effect lasts until the transaction ends.
LEAVE = Statement(
    select(func.set_config("taskflow.left", bindparam("left", type_=String()), literal(value=True)))
)
# And one whose effect lasts longer, if it is committed.
KEEP = Statement(
    select(
        func.set_config("taskflow.left", bindparam("left", type_=String()), literal(value=False))
    )
)
LEFT = Statement(select(func.current_setting("taskflow.left", literal(value=True)).label("left")))
ISOLATION = Statement(select(func.current_setting("transaction_isolation").label("isolation")))
DIVIDE = Statement(select((literal(1) / cast(bindparam("by"), Integer)).label("quotient")))
END = Statement(select(func.pg_terminate_backend(func.pg_backend_pid()).label("ended")))
# Its type is unknown to the driver, which asks for it.
UNKNOWN_TYPE = Statement(select(literal_column("(SELECT t FROM pg_tables t LIMIT 1)").label("row")))
LONG_WORK = Statement(select(func.pg_sleep(10).label("time")))


@pytest.fixture
async def database(server_url: str) -> AsyncIterator[Database]:
    """A database that is used over one connection."""
    database = Database(service_settings(server_url, database_pool_size=1))
    yield database
    await database.close()


async def left(through: Database | Transaction) -> Any:
    return (await through.fetch(LEFT, {}))[0]["left"]


async def test_a_failure_undoes_the_transaction_and_the_connection_is_used_again(
    database: Database,
) -> None:
    async def fail() -> None:
        async with database.begin() as transaction:
            await transaction.fetch(LEAVE, {"left": "something"})
            assert await left(transaction) == "something"
            await transaction.fetch(DIVIDE, {"by": 0})

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail()

    assert not await left(database)


async def test_a_savepoint_undoes_its_block_alone(database: Database) -> None:
    async def fail_in(transaction: Transaction) -> None:
        async with transaction.savepoint():
            await transaction.fetch(LEAVE, {"left": "within"})
            await transaction.fetch(DIVIDE, {"by": 0})

    async with database.begin() as transaction:
        await transaction.fetch(LEAVE, {"left": "before"})
        with pytest.raises(asyncpg.DivisionByZeroError):
            await fail_in(transaction)
        assert await left(transaction) == "before"


async def test_a_transaction_whose_end_is_cut_short_leaves_nothing_to_whoever_is_next(
    database: Database,
) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with database.begin() as transaction:
            await transaction.fetch(LEAVE, {"left": "something"})
            begun.set()
            await transaction.fetch(LONG_WORK, {})

    task = asyncio.create_task(work())
    await begun.wait()
    while not task.done():
        # The statement first, then the rollback.
        task.cancel()
        await asyncio.wait({task}, timeout=0)

    assert task.cancelled()
    assert not await left(database)
    assert database.pool_state().used == 0


async def test_what_follows_a_transaction_whose_beginning_is_cut_short_is_committed(
    database: Database,
) -> None:
    async def work() -> None:
        async with database.begin() as transaction:
            await transaction.fetch(LEAVE, {"left": "something"})

    # The connection is open, so that the work has asked for a transaction after its first step.
    assert not await left(database)
    task = asyncio.create_task(work())
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait({task})
    assert task.cancelled()

    async with database.begin() as transaction:
        await transaction.fetch(KEEP, {"left": "what follows"})
    assert await left(database) == "what follows"
    assert database.pool_state().used == 0


async def test_what_follows_types_that_are_looked_up_in_vain_behind_a_pooler_is_committed(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(
        service_settings(server_url, database_pool_size=1, database_pooler="transaction")
    )
    execute = PooledConnection.execute

    async def cut_short(connection: PooledConnection, query: str) -> Any:
        asyncio.get_running_loop().call_soon(task.cancel)
        return await execute(connection, query)

    with monkeypatch.context() as patch:
        patch.setattr(PooledConnection, "execute", cut_short)
        task = asyncio.create_task(database.fetch(UNKNOWN_TYPE, {}))
        await asyncio.wait({task})
    assert task.cancelled()

    async with database.begin() as transaction:
        await transaction.fetch(KEEP, {"left": "what follows"})
    assert await left(database) == "what follows"
    await database.close()


@pytest.mark.parametrize("by", ["the server", "us"])
async def test_a_lost_connection_is_told_as_such_and_opened_anew(
    database: Database, by: str
) -> None:
    async def fail() -> None:
        async with database.begin() as transaction:
            if by == "the server":
                await transaction.fetch(END, {})
            for server in database.servers.all:
                database.pool.end_all_to(server)
            await transaction.fetch(LEFT, {})

    for _ in range(3):
        with pytest.raises(DATABASE_ERRORS) as caught:
            await fail()
        assert isinstance(as_error(caught.value), DatabaseUnavailable)

    assert not await left(database)


async def test_transactions_read_what_is_committed_whatever_the_server_does_by_default(
    database: Database,
) -> None:
    async with database.session() as session:
        await session.execute(text("SET default_transaction_isolation = serializable"))
    assert (await database.fetch(ISOLATION, {}))[0]["isolation"] == "serializable"

    async with database.begin() as transaction:
        assert (await transaction.fetch(ISOLATION, {}))[0]["isolation"] == "read committed"
