"""Which of several servers is connected to, and what a pool does with those that are gone."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import NoReturn

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.core.errors import DatabaseUnavailable
from app.db.errors import as_error
from app.db.servers import NoSuitableServer, NotLetIn, Server, Servers, Silent, fault_within
from app.db.session import Database
from tests.conftest import NewDatabase
from tests.support import service_settings

CONNECT_TIMEOUT = 0.8


@pytest.mark.parametrize(
    ("hosts", "servers"),
    [
        ("", [Server()]),
        ("db", [Server()]),
        ("db:5433", [Server()]),
        ("a:1,b", [Server("a", 1), Server("b")]),
        ("[::1]:1,127.0.0.1:2", [Server("::1", 1), Server("127.0.0.1", 2)]),
        ("%2Frun%2FPG,b", [Server("/run/PG"), Server("b")]),
    ],
)
@pytest.mark.parametrize("user", ["", "u:p@", "u:a%40b,c@"])
def test_the_servers_of_a_url_are_known(user: str, hosts: str, servers: list[Server]) -> None:
    assert Servers(f"postgresql://{user}{hosts}/x?application_name=a,b").all == servers


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A port on which connections are accepted, and nothing is ever said."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def behind(port: int, server_url: str) -> str:
    """A URL that names a server on this port before the real one."""
    url = make_url(server_url).render_as_string(hide_password=False)
    return url.replace("@", f"@127.0.0.1:{port},", 1)


@pytest.fixture
async def database(server_url: str, hanging_port: int) -> AsyncIterator[Database]:
    url = behind(hanging_port, server_url)
    database = Database(service_settings(url, database_connect_timeout=CONNECT_TIMEOUT))
    yield database
    await database.close()


async def answers(database: Database) -> bool:
    async with database.session() as session:
        return bool(await session.scalar(text("SELECT true")))


async def test_a_server_that_hangs_leaves_time_for_the_next(database: Database) -> None:
    started = time.monotonic()
    assert await answers(database)
    assert time.monotonic() < started + CONNECT_TIMEOUT


async def test_a_server_that_hangs_is_found_out_and_not_asked_again(database: Database) -> None:
    async with database.watched():
        first = database.servers.all[0]
        while first not in database.servers.silent:
            # The first of these waits for it; meanwhile it says nothing to the watch either.
            assert await answers(database)
        await database.engine.dispose()
        started = time.monotonic()
        assert await answers(database)
    assert time.monotonic() < started + CONNECT_TIMEOUT / 2


async def test_if_all_are_silent_that_is_told_at_once(database: Database) -> None:
    database.servers.silent.update(database.servers.all)
    with pytest.raises(Silent) as told:
        await answers(database)
    assert isinstance(as_error(told.value), DatabaseUnavailable)


async def test_without_a_server_that_takes_writes_the_database_is_unavailable(
    server_url: str,
) -> None:
    url = server_url + "?target_session_attrs=standby"
    database = Database(service_settings(url))
    with pytest.raises(NoSuitableServer) as told:
        await answers(database)
    await database.close()
    assert isinstance(as_error(told.value), DatabaseUnavailable)


async def test_a_server_that_lets_nobody_in_makes_the_database_unavailable(server_url: str) -> None:
    database = Database(service_settings(f"{server_url}_that_is_not_there"))
    with pytest.raises(NotLetIn) as told:
        await answers(database)
    await database.close()
    assert told.value.sqlstate == "3D000"
    assert isinstance(as_error(told.value), DatabaseUnavailable)


# What a pooler says of connections of its own that have ended is the pooler's matter.
@pytest.mark.direct
async def test_connections_that_ended_while_they_were_idle_cost_nobody_anything(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    database = Database(service_settings(url, database_pool_size=2))
    other = await asyncpg.connect(url)
    assert all(await asyncio.gather(answers(database), answers(database)))
    ours = (
        "FROM pg_stat_activity WHERE application_name = 'taskflow' AND datname = current_database()"
    )
    assert await other.fetchval(f"SELECT count(pg_terminate_backend(pid, 5000)) {ours}") == 2
    assert await other.fetchval(f"SELECT count(*) {ours}") == 0
    assert all(await asyncio.gather(answers(database), answers(database)))
    await other.close()
    await database.close()


async def test_who_stops_asking_whether_a_server_answers_leaves_nothing_behind() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def no_answer() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asking = asyncio.create_task(fault_within(60, no_answer()))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(ended.wait(), 10)
    assert isinstance(await fault_within(0.01, no_answer()), TimeoutError)


async def test_whatever_the_system_says_of_a_server_blames_the_connection_and_is_kept() -> None:
    async def open_one(*_: object) -> NoReturn:
        raise OSError("Multiple exceptions: refused, refused")

    with pytest.raises(ConnectionError, match="refused, refused") as told:
        await Servers("postgresql://localhost/x").connect(open_one, seconds=1)
    assert type(told.value.__cause__) is OSError
