"""The servers that a URL names: which one to connect to, and which of them say nothing any more."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import asyncpg
import structlog

from app.core.settings import HOST_AND_PORT
from app.db.instrumentation import MeasuredConnection, MeasuredPool

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

# A silence is found out within two looks and one answer that does not come: less than the two
# seconds after which clients are to have their error.
LOOK_EVERY_SECONDS = 0.2
ANSWER_WITHIN_SECONDS = 1.0

log = structlog.stdlib.get_logger("taskflow.database")


class Silent(ConnectionError):
    """No server is tried, because all of them are known to be silent."""


class Unreachable(ConnectionError):
    """There is no way to a server: its name is not known, or none of its addresses takes us."""


class NoSuitableServer(ConnectionError):
    """None of the servers is what `target_session_attrs` asks for."""


class NotLetIn(ConnectionError):
    """A server refuses a connection: it starts or stops, has too many, or we are not let in."""

    def __init__(self, refusal: asyncpg.PostgresError) -> None:
        super().__init__()
        self.sqlstate = refusal.sqlstate


class Server(NamedTuple):
    """The address of one of several servers; empty for a single one, which asyncpg finds itself."""

    host: str | None = None
    port: int | None = None


Open = Callable[[Server, float], Awaitable["Connection"]]


class Servers:
    """The servers of a URL in their order, and which of them were found to be silent."""

    def __init__(self, url: str) -> None:
        self.all = _servers_of(url)
        self.silent: set[Server] = set()
        self.opening: Counter[Server] = Counter()
        """How many connections are just being opened."""

    async def connect(self, open_one: Open, *, seconds: float) -> "Connection":
        """A connection to the first that will do. Each has its part of the time.

        asyncpg by itself would let a server that hangs use up the time of those after it. What goes
        wrong is a `ConnectionError` or a `TimeoutError`.
        """
        failure: Exception = Silent()
        for server in self.all:
            if server in self.silent:
                continue
            self.opening[server] += 1
            try:
                connection = await open_one(server, seconds / len(self.all))
            except asyncpg.TargetServerAttributeNotMatched:
                failure = NoSuitableServer()
            except (ConnectionError, TimeoutError) as error:
                failure = error
            except OSError as error:
                failure = Unreachable(error.strerror or str(error))
                failure.__cause__ = error
            except asyncpg.CannotConnectNowError as error:
                failure = NotLetIn(error)
            except asyncpg.PostgresError as error:
                # As libpq does: the others would say the same.
                raise NotLetIn(error) from error
            else:
                if isinstance(connection, MeasuredConnection):
                    connection.server = server
                    connection.has_alternatives = len(self.all) > 1
                return connection
            finally:
                self.opening[server] -= 1
        raise failure


def _servers_of(url: str) -> Sequence[Server]:
    authority = re.split(r"[/?]", url.partition("://")[2], maxsplit=1)[0]
    found = [HOST_AND_PORT.fullmatch(part) for part in authority.rpartition("@")[2].split(",")]
    if len(found) == 1:
        return [Server()]
    return [
        Server(
            unquote(one["address"] or one["host"]) or None,
            int(one["port"]) if one["port"] else None,
        )
        for one in found
        if one is not None
    ]


@asynccontextmanager
async def watched(servers: Servers, pool: MeasuredPool, open_one: Open) -> AsyncIterator[None]:
    """While the block runs, end the pool's connections to servers that say nothing any more.

    A server is silent if no statement returns while some are under way, and a new connection gets
    no answer either. One that is only slow still answers the new connection.
    """
    watches = [
        asyncio.create_task(_watch(server, servers, pool, open_one)) for server in servers.all
    ]
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.wait(watches)


async def _watch(server: Server, servers: Servers, pool: MeasuredPool, open_one: Open) -> None:
    seen = pool.answers_of(server)
    while True:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        before, seen = seen, pool.answers_of(server)
        if server in servers.silent:
            if await _answers(server, open_one):
                servers.silent.discard(server)
                log.warning("database_answers", host=server.host)
        elif before == seen and (servers.opening[server] or pool.uses(server)):
            if await _answers(server, open_one) or pool.answers_of(server) != seen:
                continue
            servers.silent.add(server)
            log.error("database_silent", host=server.host)
            pool.end_all_to(server)


async def _answers(server: Server, open_one: Open) -> bool:
    """Whether the server says anything at all, if only that it takes no more connections."""
    fault = await fault_within(ANSWER_WITHIN_SECONDS, _ask(server, open_one))
    # What else may be wrong, such as too many open files of our own, says nothing of the server.
    return not isinstance(fault, ConnectionError | TimeoutError)


async def fault_within(seconds: float, asking: Coroutine[Any, Any, None]) -> BaseException | None:
    """What `asking` raises, or a `TimeoutError` if it takes longer; None if it ends well.

    When the time is over, or the caller is cancelled, it is cancelled and not waited for. With
    `asyncio.timeout` it would be, and to close its connection takes an answer of the server.
    """
    task = asyncio.create_task(asking)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        # Its exception counts as retrieved: else asyncio would log that nobody has looked at it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        task.cancel()
    return TimeoutError() if not task.done() or task.cancelled() else task.exception()


async def _ask(server: Server, open_one: Open) -> None:
    connection = await open_one(server, ANSWER_WITHIN_SECONDS)
    try:
        await connection.execute("SELECT 1")
    finally:
        connection.terminate()
