"""Clients that go away, and clients that are slow on purpose: what they held is free again."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from app.db.session import Database
from tests.conftest import NewDatabase
from tests.db.support import eventually, run_sql
from tests.observability.support import Samples
from tests.support import (
    Account,
    RunningService,
    blocking_client,
    make_account,
    running_service,
    service_settings,
)

pytestmark = pytest.mark.survival

ABORTED = 1000
POOL_SIZE = 10
SLOW_SENDERS = 300
SLOW_READERS = 5
GIVEN_BACK_WITHIN_SECONDS = 1.0
CLOSED_WITHIN_SECONDS = 30.0
WORKING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskflow' "
    "AND datname = current_database() AND state <> 'idle'"
)


def account_on(service: RunningService, url: str) -> Account:
    async def make() -> Account:
        database = Database(service_settings(url))
        account = await make_account(database, service.base_url)
        await account.client.aclose()
        await database.close()
        return account

    # A loop factory keeps the Runner from unsetting the event loop of the tests around.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(make())


def open_socket(service: RunningService) -> socket.socket:
    address = urlsplit(service.base_url)
    return socket.create_connection((str(address.hostname), address.port or 0), 10)


def requests_of(token: str) -> list[bytes]:
    """Reads, and writes of each kind: alone, in a transaction, with a key."""
    authorization = f"Host: x\r\nAuthorization: Bearer {token}\r\n"

    def write(method: str, path: str, body: object, extra: str = "") -> bytes:
        content = json.dumps(body)
        return (
            f"{method} {path} HTTP/1.1\r\n{authorization}{extra}Content-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n{content}"
        ).encode()

    batch = {"operations": [{"op": "create", "task": {"title": "aborted"}}]}
    return [
        f"GET /api/v1/tasks HTTP/1.1\r\n{authorization}\r\n".encode(),
        f"GET /api/v1/tasks/stats HTTP/1.1\r\n{authorization}\r\n".encode(),
        f"GET /api/v1/tasks/export HTTP/1.1\r\n{authorization}\r\n".encode(),
        write("POST", "/api/v1/tasks", {"title": "aborted"}),
        write("POST", "/api/v1/tasks", {"title": "aborted"}, "Idempotency-Key: one\r\n"),
        write("POST", "/api/v1/tasks/batch", batch),
    ]


@contextlib.contextmanager
def locked_tasks(url: str) -> Iterator[None]:
    """Within the block every statement on tasks waits."""
    held, done = asyncio.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def hold() -> None:
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            held.set()
            await done.wait()
        await connection.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(hold(),))
    thread.start()
    eventually(held.is_set)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


def samples_of(client: httpx.Client) -> Samples:
    return Samples.of(client.get("/metrics").text)


def test_a_thousand_aborted_requests_give_their_connections_back_within_a_second(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    limits = {
        "MAXIMUM_CONCURRENT_REQUESTS": "2000",
        # Those who wait for a connection are to be still there when they are aborted.
        "DATABASE_POOL_TIMEOUT": "60",
        "DATABASE_STATEMENT_TIMEOUT": "60",
        "DATABASE_LOCK_TIMEOUT": "60",
        "RATE_LIMIT_API": "",
    }
    with (
        running_service(url, **limits) as service,
        ExitStack() as stack,
        blocking_client(service.base_url) as client,
    ):
        account = account_on(service, url)
        client.headers["Authorization"] = f"Bearer {account.token}"
        assert client.get("/api/v1/tasks").status_code == 200
        kinds = requests_of(account.token)
        with locked_tasks(url):
            sockets = [stack.enter_context(open_socket(service)) for _ in range(ABORTED)]
            for number, connection in enumerate(sockets):
                connection.sendall(kinds[number % len(kinds)])
            eventually(
                lambda: samples_of(client).total("http_server_active_requests") == ABORTED + 1
            )
            # They have every connection, besides the one that holds the lock.
            assert run_sql(url, WORKING) == POOL_SIZE
            for connection in sockets:
                connection.close()
            aborted_at = time.monotonic()
            eventually(lambda: run_sql(url, WORKING) == 0)
            eventually(lambda: samples_of(client).total("db_client_connections", state="used") == 0)
            taken = time.monotonic() - aborted_at
        assert samples_of(client).total("http_server_active_requests") == 1
        # The pool is whole: as many as it has connections are served at the same time.
        assert run_sql(url, "SELECT count(*) FROM tasks") == 0
        for _ in range(2 * POOL_SIZE):
            assert client.get("/api/v1/tasks").status_code == 200
        after = samples_of(client)
        output = service.output()

    assert taken < GIVEN_BACK_WITHIN_SECONDS
    assert after.total("db_client_connections") <= POOL_SIZE
    counted = after.total(
        "http_server_request_duration_seconds_count", http_response_status_code="499"
    )
    assert counted == ABORTED
    assert "Traceback" not in output
    assert "ASGI" not in output
    assert "unhandled" not in output


def test_three_hundred_slow_clients_are_cut_off_while_others_are_served(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    with (
        running_service(url, RATE_LIMIT_API="") as service,
        ExitStack() as stack,
        blocking_client(service.base_url) as client,
    ):
        account = account_on(service, url)
        client.headers["Authorization"] = f"Bearer {account.token}"
        for number in range(100):
            task = {"title": str(number), "description": "x" * 20_000}
            assert client.post("/api/v1/tasks", json=task).status_code == 201
        authorization = b"Host: x\r\nAuthorization: Bearer " + account.token.encode() + b"\r\n"
        head = b"POST /api/v1/tasks HTTP/1.1\r\n" + authorization
        body = head + b"Content-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"
        read = b"GET /api/v1/tasks?per_page=100 HTTP/1.1\r\n" + authorization + b"\r\n"
        slow = []
        for number in range(SLOW_SENDERS):
            connection = stack.enter_context(open_socket(service))
            connection.sendall((head, body)[number % 2])
            slow.append(connection)
        # Twenty megabytes for each of these, which never reads: more than the kernel keeps.
        readers = [stack.enter_context(open_socket(service)) for _ in range(SLOW_READERS)]
        for connection in readers:
            connection.sendall(10 * read)
        started = time.monotonic()

        statuses = set()
        slowest = 0.0
        drips = 0
        pause = threading.Event()
        assert established(service) > SLOW_SENDERS + SLOW_READERS
        # At last there is the one that is served.
        while established(service) > 1 and time.monotonic() - started < CLOSED_WITHIN_SECONDS:
            asked = time.monotonic()
            statuses.add(client.get("/api/v1/tasks?per_page=5").status_code)
            slowest = max(slowest, time.monotonic() - asked)
            # A byte now and then, as slowloris does.
            drips += 1
            with contextlib.suppress(OSError):
                slow[drips % len(slow)].sendall(b"x")
            pause.wait(0.02)
        taken = time.monotonic() - started

    assert statuses == {200}
    assert slowest < 1
    assert taken < CLOSED_WITHIN_SECONDS


def established(service: RunningService) -> int:
    """How many connections the service has, as the kernel of Linux tells."""
    port = f":{urlsplit(service.base_url).port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)
