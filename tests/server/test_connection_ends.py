"""When a connection ends: slow clients, last answers, and the end of the service."""

import asyncio
import contextlib
import gc
import select
import socket
import time
import weakref
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

from app.core.settings import Settings
from app.main import create_app
from app.server import pace, protocol
from app.server.client_buffers import reset
from app.server.protocol import HTTPProtocol
from tests.server.connections import HEAD, UPGRADE, at_a_pace, connected
from tests.support import Account, served

HALF_SENT = (
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n"
    b"Content-Type: application/json\r\nContent-Length: 80\r\n\r\n" + 40 * b" "
)


def have_little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let services cut off slow senders after a moment."""
    monkeypatch.setattr(pace, "SLOW_AFTER_SECONDS", 0.2)
    monkeypatch.setattr(pace, "CHECK_EVERY_SECONDS", 0.1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[str]:
    """A service of its own with little patience."""
    have_little_patience(monkeypatch)
    with served(create_app(settings)) as base_url:
        yield base_url


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /hea", id="part of a line"),
        pytest.param(HEAD + b"X-Slow: ", id="part of a header"),
        pytest.param(HEAD + b"\r\n" + HEAD, id="part of a second request"),
    ],
)
async def test_a_head_that_does_not_come_ends_the_connection(impatient: str, sent: bytes) -> None:
    async with connected(impatient) as connection:
        await connection.send(sent)
        assert b"HTTP/1.1 408 Request Timeout\r\n" in await connection.rest()


async def test_a_head_that_does_not_come_behind_an_unanswered_request_gets_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have_little_patience(monkeypatch)
    app = FastAPI()

    @app.get("/")
    async def take_long() -> None:
        await asyncio.Event().wait()

    with served(app) as base_url:
        async with connected(base_url) as connection:
            await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /")
            # It would be taken for the answer to the first.
            assert await connection.rest() == b""


async def test_a_body_that_does_not_come_ends_the_connection(impatient: str) -> None:
    request = b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with connected(impatient) as connection:
        await connection.send(request + b"Content-Length: 100\r\n\r\n{")
        assert await connection.rest() == b""


async def test_a_body_that_does_not_come_behind_an_answer_gets_no_second_answer(
    impatient: str,
) -> None:
    request = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with connected(impatient) as connection:
        await connection.send(request + b"Content-Length: 100\r\n\r\n{")
        head, _ = await connection.answer()
        assert head.startswith(b"http/1.1 401 ")
        assert await connection.rest() == b""


async def test_a_body_that_comes_in_drops_ends_the_connection(impatient: str) -> None:
    request = b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with connected(impatient) as connection:
        await connection.send(request + b"Content-Length: 1000000\r\n\r\n")
        ended = asyncio.create_task(connection.rest())
        started = time.monotonic()
        while not ended.done():
            with contextlib.suppress(ConnectionError):
                await connection.send(b" ")
            await asyncio.wait({ended}, timeout=0.02)
            assert time.monotonic() - started < 10
        with contextlib.suppress(ConnectionError):
            await ended


async def test_a_body_that_came_fast_at_first_may_not_be_silent_for_longer(
    alice: Account, impatient: str
) -> None:
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: 1000000\r\n\r\n" % alice.token.encode()
    )
    async with connected(impatient) as connection:
        await connection.send(head + b" " * 999_000)
        started = time.monotonic()
        await connection.rest()
        assert time.monotonic() - started < 5


async def test_a_body_that_comes_steadily_may_take_longer_than_a_client_may_be_silent(
    alice: Account, impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SLOW_AFTER_SECONDS", 0.6)
    body = b'{"title": "x"}'.ljust(40_000)
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
    ) % (alice.token.encode(), len(body))
    started = time.monotonic()
    async with connected(impatient) as connection:
        await connection.send(head)
        for place in range(0, len(body), 1000):
            await connection.send(body[place : place + 1000])
            await at_a_pace(0.03)
        assert (await connection.answer())[0].startswith(b"http/1.1 201 ")
    assert time.monotonic() - started > 1.5 * pace.SLOW_AFTER_SECONDS


async def test_an_answer_that_nobody_takes_in_ends_the_connection(impatient: str) -> None:
    # Far more than the kernel keeps for a client.
    requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 300
    with socket.create_connection(_address(impatient)) as connection:
        connection.sendall(requests)
        is_reset = select.poll()
        is_reset.register(connection, 0)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, is_reset.poll, 10_000)


async def test_an_answer_that_is_taken_in_slowly_is_given_in_full(impatient: str) -> None:
    requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20
    started = time.monotonic()
    async with connected(impatient) as connection:
        await connection.send(requests)
        for _ in range(20):
            head, _ = await connection.answer()
            assert head.startswith(b"http/1.1 200 ")
            await at_a_pace(0.05)
    # Longer than a client may be silent.
    assert time.monotonic() - started > 4 * pace.SLOW_AFTER_SECONDS


async def test_an_answer_of_many_megabytes_may_be_taken_in_steadily(
    impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SLOW_AFTER_SECONDS", 0.6)
    requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 60
    taken = 0
    async with connected(impatient, receive_buffer=65_536) as connection:
        await connection.send(requests)
        # Less in a second than the kernel keeps for a client, but far more than 4 KiB.
        for _ in range(75):
            taken += len(await connection.reader.readexactly(20_000))
            await at_a_pace(0.03)
    assert taken == 1_500_000


async def test_an_idle_connection_between_two_requests_is_kept(impatient: str) -> None:
    async with connected(impatient) as connection:
        await connection.send(HEAD + b"\r\n")
        await connection.answer()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await connection.reader.read(1)
        await connection.send(HEAD + b"\r\n")
        head, _ = await connection.answer()
        assert head.startswith(b"http/1.1 200 ")


async def test_while_the_service_ends_an_idle_connection_takes_one_more_request(
    settings: Settings,
) -> None:
    with contextlib.ExitStack() as service:
        base_url = service.enter_context(served(create_app(settings)))
        async with (
            connected(base_url) as busy,
            connected(base_url) as idle,
            connected(base_url) as new,
        ):
            for connection in (busy, idle):
                await connection.send(HEAD + b"\r\n")
                assert b"connection: close" not in (await connection.answer())[0]
            ending = asyncio.get_running_loop().run_in_executor(None, service.close)
            await _refuses_connections(base_url)
            # An upgrade is no exception, and neither is a connection's first request.
            for connection, extra in ((busy, b""), (new, UPGRADE)):
                await connection.send(HEAD + extra + b"\r\n")
                head, _ = await connection.answer()
                assert head.startswith(b"http/1.1 200 ")
                assert b"connection: close" in head
            assert await busy.rest() == b""
            assert await idle.rest() == b""
            await ending


@pytest.mark.parametrize("framing", [b"Content-Length: 8000000\r\n", b"Expect: 100-continue\r\n"])
async def test_who_still_sends_can_read_why_it_is_refused(alice: Account, framing: bytes) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + framing
    if b"Length" not in framing:
        head += b"Transfer-Encoding: chunked\r\n"
    async with connected(str(alice.client.base_url)) as connection:
        # Without a credential. What is sent would not fit into the kernel's buffers.
        await connection.send(head + b"\r\n")
        for _ in range(80):
            await connection.send(b"186a0\r\n" + b" " * 100_000)
        assert (await connection.rest()).startswith(b"HTTP/1.1 401 ")


async def test_who_is_refused_before_the_body_is_told_at_once_that_nothing_else_comes(
    alice: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 60)
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
    )
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head)
        async with asyncio.timeout(5):
            assert (await connection.rest()).startswith(b"HTTP/1.1 401 ")


async def test_who_is_refused_while_it_waits_to_send_is_told_that_the_connection_ends(
    alice: Account,
) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head + b"Content-Length: 40\r\n\r\n")
        answer = await connection.rest()
    # It will leave the body away, and its next request would be taken for it.
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close\r\n" in answer


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        pytest.param(b"", 0, id="silent"),
        pytest.param(b"GET /hea", 0, id="part of a head"),
        pytest.param(HEAD + b"\r\n", 1, id="answered"),
        pytest.param(HEAD + UPGRADE + b"\r\n", 1, id="answered without an upgrade"),
        pytest.param(3 * (HEAD + b"\r\n"), 3, id="answered in a row"),
        pytest.param(HEAD + b"Connection: close\r\n\r\n" + HEAD, 1, id="closed by the service"),
        pytest.param(b"zzz\r\n", 0, id="no HTTP"),
        pytest.param(HALF_SENT, 0, id="gone in a body"),
        pytest.param(HALF_SENT + 40 * b" " + HALF_SENT, 0, id="gone in a row"),
    ],
)
@pytest.mark.parametrize("ending", ["closed", "reset"])
async def test_a_connection_that_has_ended_leaves_memory_without_the_collector(
    alice: Account, monkeypatch: pytest.MonkeyPatch, sent: bytes, answers: int, ending: str
) -> None:
    begun: list[weakref.ref[HTTPProtocol]] = []
    begin = HTTPProtocol.connection_made

    def remember(self: HTTPProtocol, transport: asyncio.BaseTransport) -> None:
        begun.append(weakref.ref(self))
        begin(self, transport)

    client = alice.client
    # So that nobody vanishes while SQLAlchemy connects, whose tracebacks are cycles.
    await client.get("/api/v1/tasks")
    monkeypatch.setattr(HTTPProtocol, "connection_made", remember)
    gc.disable()
    try:
        async with connected(str(client.base_url)) as connection:
            await connection.send(sent.replace(b"TOKEN", alice.token.encode()))
            for _ in range(answers):
                await connection.answer()
            if ending == "reset":
                reset(cast("asyncio.Transport", connection.writer.transport))
        async with asyncio.timeout(10):
            while not begun or begun[0]() is not None:
                await client.get("/health")
    finally:
        gc.enable()
    assert len(begun) == 1


@pytest.mark.parametrize("behind", [HEAD + b"\r\n", b"zzz\r\n"])
async def test_nothing_is_begun_behind_an_answer_that_ends_the_connection(
    alice: Account, log_lines: list[dict[str, Any]], behind: bytes
) -> None:
    # Refused before its body has come.
    first = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
    )
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(first)
        head, _ = await connection.answer()
        assert head.startswith(b"http/1.1 401 ")
        await connection.send(b"12345" + behind)
        assert await connection.rest() == b""
    assert [line["status"] for line in log_lines if line["event"] == "request"] == [401]
    assert {line["log_level"] for line in log_lines} == {"info"}


async def test_what_comes_behind_the_last_request_of_a_connection_is_not_begun(
    alice: Account, log_lines: list[dict[str, Any]]
) -> None:
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    broken = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n"
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(last + broken)
        assert (await connection.rest()).count(b"HTTP/1.1 ") == 1
    assert [line["status"] for line in log_lines if line["event"] == "request"] == [200]


async def test_who_goes_on_sending_for_long_is_cut_off(
    alice: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n")

        async def send_on() -> None:
            while True:
                await connection.send(b"1\r\n \r\n")

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_on(), 10)


def _address(base_url: str) -> tuple[str, int]:
    address = urlsplit(base_url)
    return str(address.hostname), address.port or 0


async def _refuses_connections(base_url: str) -> None:
    """Return when the service has stopped listening."""
    address = urlsplit(base_url)
    async with asyncio.timeout(10):
        while True:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((str(address.hostname), address.port or 0)) != 0:
                    return
            await at_a_pace(0.02)
