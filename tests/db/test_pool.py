"""Who gets the connections of a full pool, and what becomes of those that are lost meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, bindparam, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from app.db.fair_queue import FairQueue
from app.db.instrumentation import MeasuredConnection, MeasuredPool
from app.db.session import Database
from app.db.statements import Statement
from tests.support import service_settings, until

WORK = Statement(
    select(bindparam("number", type_=Integer()).label("number"), func.pg_sleep(0.01).label("time"))
)
LONG_WORK = Statement(select(func.pg_sleep(10).label("time")))


@pytest.fixture
async def database(server_url: str) -> AsyncIterator[Database]:
    """A database that is used over one connection, which is awaited for a second."""
    settings = service_settings(server_url, database_pool_size=1, database_pool_timeout=1)
    database = Database(settings)
    await number(database, 0)
    yield database
    await database.close()


async def number(database: Database, given: int) -> int:
    rows = await database.fetch(WORK, {"number": given})
    found: int = rows[0]["number"]
    return found


async def waiting(database: Database, how_many: int) -> None:
    """Return when so many wait for a connection."""
    await until(lambda: database.pool_state().awaited == how_many)


async def end_connections(server_url: str) -> None:
    """End those on which something long is under way."""
    connection = await asyncpg.connect(server_url, server_settings={"application_name": "other"})
    query = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE query LIKE '%pg_sleep%' AND query NOT LIKE '%number%' AND state = 'active'
            AND application_name = 'taskflow' AND datname = current_database()
    """
    while not await connection.fetch(query):
        pass
    await connection.close()


async def test_those_who_wait_are_served_in_the_order_in_which_they_asked(
    database: Database,
) -> None:
    served: list[int] = []

    async def ask(given: int) -> None:
        served.append(await number(database, given))

    await asyncio.gather(*(ask(given) for given in range(20)))

    assert served == list(range(20))
    state = database.pool_state()
    assert (state.used, state.idle, state.awaited) == (0, 1, 0)


async def test_whoever_gives_up_waiting_leaves_the_connection_to_the_next(
    database: Database,
) -> None:
    first, second, third = (asyncio.create_task(number(database, given)) for given in range(3))
    await waiting(database, 2)
    second.cancel()

    assert (await first, await third) == (0, 2)
    with pytest.raises(asyncio.CancelledError):
        await second
    assert database.pool_state().used == 0


async def test_whoever_is_cancelled_when_the_connection_has_just_come_gives_it_on(
    database: Database,
) -> None:
    first, second, third = (asyncio.create_task(number(database, given)) for given in range(3))
    first.add_done_callback(lambda _: second.cancel())

    assert (await first, await third) == (0, 2)
    await asyncio.wait({second})
    assert database.pool_state().used == 0


async def test_what_came_just_when_its_waiter_went_is_left_to_others() -> None:
    queue = FairQueue(1)
    gone = asyncio.create_task(queue.get_in_turn(1))
    await asyncio.wait({gone}, timeout=0)
    queue.put("a connection")
    gone.cancel()

    with pytest.raises(asyncio.CancelledError):
        await gone
    assert queue.get_nowait() == "a connection"


async def test_a_connection_that_was_lost_is_opened_anew_by_whoever_waits_for_it(
    database: Database, server_url: str
) -> None:
    lost = asyncio.create_task(database.fetch(LONG_WORK, {}))
    waiters = [asyncio.create_task(number(database, given)) for given in range(3)]
    await waiting(database, 3)
    await end_connections(server_url)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await lost
    assert await asyncio.gather(*waiters) == [0, 1, 2]


async def test_one_lost_connection_does_not_cost_those_who_wait_their_turn(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A session that meets a lost connection has all others opened anew.
    settings = service_settings(server_url, database_pool_size=2, database_pool_timeout=5)
    database = Database(settings)
    turns: list[str] = []
    lend = MeasuredPool._lend  # noqa: SLF001 - when an answer comes says nothing of the turn

    def noting(pool: MeasuredPool, entry: ConnectionPoolEntry) -> MeasuredConnection:
        if (task := asyncio.current_task()) is not None:
            turns.append(task.get_name())
        return lend(pool, entry)

    async def work_in_session() -> None:
        async with database.session() as session:
            await session.execute(select(func.pg_sleep(10)))

    await asyncio.gather(number(database, 0), number(database, 0))
    monkeypatch.setattr(MeasuredPool, "_lend", noting)
    lost = asyncio.create_task(work_in_session())
    await until(lambda: database.pool_state().used == 1)
    names = [f"{given}" for given in range(40)]
    waiters = [asyncio.create_task(number(database, int(name)), name=name) for name in names]
    await waiting(database, 39)
    await end_connections(server_url)

    with pytest.raises(DBAPIError):
        await lost
    await asyncio.gather(*waiters)
    await database.close()
    assert turns == names


async def test_a_connection_that_does_not_come_back_in_time_is_told_as_such(
    database: Database,
) -> None:
    busy = asyncio.create_task(database.fetch(LONG_WORK, {}))
    await until(lambda: database.pool_state().used == 1)
    with pytest.raises(PoolTimeoutError):
        await number(database, 1)
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy

    assert await number(database, 2) == 2


async def test_where_a_connection_cannot_be_opened_its_place_is_left_to_others(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = service_settings(server_url, database_pool_size=1, database_pool_timeout=0.3)
    database = Database(settings)
    connect = database.servers.connect
    is_awaited = asyncio.Event()

    async def fail_once(*_: Any, **__: Any) -> Any:
        monkeypatch.setattr(database.servers, "connect", connect)
        await is_awaited.wait()
        raise ConnectionRefusedError

    monkeypatch.setattr(database.servers, "connect", fail_once)
    first = asyncio.create_task(number(database, 1))
    second = asyncio.create_task(number(database, 2))
    await waiting(database, 2)
    is_awaited.set()

    with pytest.raises(ConnectionRefusedError):
        await first
    assert await second == 2
    await database.close()
