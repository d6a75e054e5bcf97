"""More requests at once than a worker may have: the surplus is refused, and only the surplus."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
import structlog
from fastapi import FastAPI

from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from app.server.protocol import HTTPProtocol
from tests.conftest import NewDatabase
from tests.observability.support import Samples
from tests.server.connections import connected
from tests.support import Account, assert_error, make_account, served, service_settings

if TYPE_CHECKING:
    from app.server.admission import Admission

    Connection = asyncpg.Connection[asyncpg.Record]

MAXIMUM = 3
LIST = b"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def small_settings(new_database: NewDatabase) -> Settings:
    return service_settings(
        new_database(),
        maximum_concurrent_requests=MAXIMUM,
        cors_origins="https://app.example.com",
    )


@pytest.fixture(scope="module")
def small_app(small_settings: Settings) -> FastAPI:
    return create_app(small_settings)


@pytest.fixture(scope="module")
def small_url(small_app: FastAPI) -> Iterator[str]:
    with served(small_app) as url:
        yield url


@pytest.fixture
async def dora(small_settings: Settings, small_url: str) -> AsyncIterator[Account]:
    database = Database(small_settings)
    account = await make_account(database, small_url)
    yield account
    await account.client.aclose()
    await database.close()


@pytest.fixture
async def lock(small_settings: Settings) -> "AsyncIterator[Connection]":
    """While its transaction lasts, no statement on tasks gets on."""
    connection = await asyncpg.connect(small_settings.required_database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    yield connection
    await connection.close()


async def at_work(client: httpx.AsyncClient, number: int) -> None:
    """Return once the service has so many requests under way, besides the one that asks."""
    async with asyncio.timeout(10):
        while True:
            samples = Samples.of((await client.get("/metrics")).text)
            if samples.total("http_server_active_requests") == number + 1:
                return


async def all_wait_for_their_clients(app: FastAPI, client: httpx.AsyncClient) -> None:
    """Return once what is under way has come so far that it wants more from its client."""
    admission: Admission = app.state.admission
    async with asyncio.timeout(10):
        while admission.at_work:
            await client.get("/health")


async def all_is_told(app: FastAPI, client: httpx.AsyncClient) -> None:
    """Return once the log knows of all that were refused."""
    admission: Admission = app.state.admission
    async with asyncio.timeout(10):
        while admission.untold:
            await client.get("/health")


async def test_the_surplus_is_refused_in_the_envelope_and_probes_pass(
    dora: Account, lock: "Connection"
) -> None:
    before = Samples.of((await dora.client.get("/metrics")).text)
    working = [asyncio.create_task(dora.client.get("/api/v1/tasks")) for _ in range(MAXIMUM)]
    await at_work(dora.client, MAXIMUM)

    refused = await dora.client.get("/api/v1/users/me", headers={"X-Request-ID": "surplus"})
    assert_error(refused, 503, "overloaded")
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["X-Request-ID"] == "surplus"
    from_a_page = {"Origin": "https://app.example.com"}
    shown = await dora.client.get("/api/v1/users/me", headers=from_a_page)
    # Without these headers the page could not even see that it was refused.
    assert_error(shown, 503, "overloaded")
    assert shown.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert "X-Request-ID" in shown.headers["Access-Control-Expose-Headers"]
    assert shown.headers["Vary"] == "Origin"
    from_another = {"Origin": "https://evil.example.com"}
    hidden = await dora.client.get("/api/v1/users/me", headers=from_another)
    assert_error(hidden, 503, "overloaded")
    assert not [name for name in hidden.headers if name.startswith("access-control")]
    for probe in ("/health", "/health/ready", "/metrics"):
        assert (await dora.client.get(probe)).status_code == 200

    await lock.close()
    assert {(await request).status_code for request in working} == {200}
    assert (await dora.client.get("/api/v1/users/me")).status_code == 200
    after = Samples.of((await dora.client.get("/metrics")).text)
    name = "taskflow_refused_requests_total"
    assert after.total(name) - before.total(name) == 3


async def test_clients_that_are_slow_to_send_keep_nobody_out(
    dora: Account, small_app: FastAPI, small_url: str
) -> None:
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 20\r\nAuthorization: Bearer " + dora.token.encode() + b"\r\n\r\n"
    )
    slow = [connected(small_url) for _ in range(MAXIMUM + 2)]
    connections = [await one.__aenter__() for one in slow]
    for number, connection in enumerate(connections, start=1):
        await connection.send(head, b'{"title"')
        await at_work(dora.client, number)
        await all_wait_for_their_clients(small_app, dora.client)

    assert (await dora.client.get("/api/v1/tasks")).status_code == 200
    for connection in connections:
        await connection.send(b': "slow"   }')
        assert (await connection.answer())[0].startswith(b"http/1.1 201 ")
    for one in slow:
        await one.__aexit__(None, None, None)


async def test_a_body_that_comes_when_the_worker_is_full_is_refused(
    dora: Account, small_app: FastAPI, small_url: str, lock: "Connection"
) -> None:
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 20\r\nAuthorization: Bearer " + dora.token.encode() + b"\r\n\r\n"
    )
    async with connected(small_url) as connection:
        await connection.send(head, b'{"title"')
        await at_work(dora.client, 1)
        await all_wait_for_their_clients(small_app, dora.client)
        working = [asyncio.create_task(dora.client.get("/api/v1/tasks")) for _ in range(MAXIMUM)]
        await at_work(dora.client, MAXIMUM + 1)
        await connection.send(b': "late"   }')
        assert (await connection.answer())[0].startswith(b"http/1.1 503 ")
    await lock.close()
    assert {(await request).status_code for request in working} == {200}
    assert (await dora.client.get("/api/v1/tasks")).json()["data"]["total"] == 0


async def test_those_who_wait_for_an_idempotency_key_keep_nobody_out(
    dora: Account, lock: "Connection"
) -> None:
    key = {"Idempotency-Key": "the-same"}
    repeats = [
        asyncio.create_task(dora.client.post("/api/v1/tasks", json={"title": "Once"}, headers=key))
        for _ in range(MAXIMUM)
    ]
    await at_work(dora.client, MAXIMUM)
    assert (await dora.client.get("/api/v1/users/me")).status_code == 200

    await lock.close()
    assert {(await request).status_code for request in repeats} == {201}


@pytest.fixture
async def full(dora: Account, lock: "Connection") -> AsyncIterator[None]:
    """While it lasts the worker has no room."""
    working = [asyncio.create_task(dora.client.get("/api/v1/tasks")) for _ in range(MAXIMUM)]
    await at_work(dora.client, MAXIMUM)
    yield
    await lock.close()
    await asyncio.gather(*working)


@pytest.mark.usefixtures("full")
async def test_a_refusal_leaves_the_connection_ready_for_the_next_request(small_url: str) -> None:
    body = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    post = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    upgrade = LIST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    async with connected(small_url) as connection:
        for request in (post, upgrade, LIST + b"\r\n"):
            await connection.send(request)
            head, content = await connection.answer()
            assert head.startswith(b"http/1.1 503 ")
            assert b'"overloaded"' in content
        await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await connection.answer())[0].startswith(b"http/1.1 200 ")


@pytest.mark.usefixtures("full")
async def test_of_requests_in_a_row_the_second_refusal_ends_the_connection(small_url: str) -> None:
    async with connected(small_url) as connection:
        await connection.send((LIST + b"\r\n") * 1000)
        answers = await connection.rest()
    assert answers.count(b"HTTP/1.1 503 ") == 2
    assert answers.count(b"connection: close\r\n") == 1


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("first", [b"GET /health", b"OPTIONS /api/v1/tasks"])
async def test_behind_what_is_let_in_nothing_else_slips_in(
    small_app: FastAPI, small_url: str, first: bytes
) -> None:
    admission: Admission = small_app.state.admission
    async with connected(small_url) as connection:
        await connection.send(first + b" HTTP/1.1\r\nHost: x\r\n\r\n" + LIST + b"\r\n" + LIST)
        answers = await connection.rest()
    assert admission.at_work == MAXIMUM
    assert answers.index(b"HTTP/1.1 503 ") > 0
    assert b'"overloaded"' in answers


@pytest.mark.usefixtures("full")
async def test_a_client_that_waits_to_send_its_body_is_told_that_the_connection_ends(
    small_url: str,
) -> None:
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 40\r\n"
    )
    async with connected(small_url) as connection:
        await connection.send(head + b"\r\n")
        answer = await connection.rest()
    # It will leave the body away, and its next request would be taken for it.
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close\r\n" in answer


@pytest.mark.usefixtures("full")
async def test_a_refused_body_that_turns_out_bad_gets_no_second_answer(small_url: str) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected(small_url) as connection:
        await connection.send(head)
        assert (await connection.answer())[0].startswith(b"http/1.1 503 ")
        await connection.send(b"zz\r\n")
        assert await connection.rest() == b""


@pytest.mark.usefixtures("full")
async def test_a_connection_whose_refused_body_came_late_is_not_kept_for_ever(
    small_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = property(lambda _: 0.3, lambda _, __: None)
    monkeypatch.setattr(HTTPProtocol, "timeout_keep_alive", soon, raising=False)
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    async with connected(small_url) as connection:
        await connection.send(head)
        assert (await connection.answer())[0].startswith(b"http/1.1 503 ")
        await connection.send(b"late")
        assert await connection.rest() == b""


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "request_bytes",
    [LIST + b"Connection: close\r\n\r\n", LIST.replace(b"1.1", b"1.0") + b"\r\n"],
)
async def test_a_refusal_ends_the_connection_of_who_wants_one_answer(
    small_url: str, request_bytes: bytes
) -> None:
    async with connected(small_url) as connection:
        await connection.send(request_bytes)
        answer = await connection.rest()
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"connection: close\r\n" in answer


@pytest.mark.usefixtures("full")
async def test_a_refused_head_has_no_body(dora: Account) -> None:
    refused = await dora.client.head("/api/v1/tasks")
    assert refused.status_code == 503
    assert refused.content == b""
    assert (await dora.client.get("/health")).status_code == 200


async def test_the_log_tells_once_how_many_were_refused(
    dora: Account, lock: "Connection", small_app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await all_is_told(small_app, dora.client)
    monkeypatch.setattr("app.server.admission.TELL_EVERY_SECONDS", 0.05)
    working = [asyncio.create_task(dora.client.get("/api/v1/tasks")) for _ in range(MAXIMUM)]
    await at_work(dora.client, MAXIMUM)
    with structlog.testing.capture_logs() as events:
        for _ in range(5):
            assert_error(await dora.client.get("/api/v1/tasks"), 503, "overloaded")
        await all_is_told(small_app, dora.client)
    told = [event for event in events if event["event"] == "requests refused"]
    assert sum(event["count"] for event in told) == 5
    assert len(told) < 5
    await lock.close()
    await asyncio.gather(*working)


@pytest.mark.usefixtures("lock")
async def test_clients_that_go_leave_their_places(
    dora: Account, small_app: FastAPI, small_url: str
) -> None:
    request = LIST + b"Authorization: Bearer " + dora.token.encode() + b"\r\n\r\n"
    for _ in range(2 * MAXIMUM):
        async with connected(small_url) as connection:
            await connection.send(request)
            await at_work(dora.client, 1)
            connection.writer.transport.abort()
        await all_wait_for_their_clients(small_app, dora.client)
    for _ in range(2 * MAXIMUM):
        async with connected(small_url) as connection:
            # The service reads the request and the end at once.
            await connection.send(request)
            connection.writer.transport.abort()
    # Some of these may still be on their way, and only then be let in.
    async with asyncio.timeout(10):
        while (await dora.client.get("/api/v1/users/me")).status_code != 200:
            await all_wait_for_their_clients(small_app, dora.client)
    await all_wait_for_their_clients(small_app, dora.client)
    assert small_app.state.admission.at_work == 0
