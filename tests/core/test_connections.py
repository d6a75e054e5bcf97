"""What holds for a connection, below HTTP's own words."""

import asyncio
import contextlib
import json
import select
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from fastapi import FastAPI

from app.core import http_protocol
from app.core.settings import Settings
from app.main import create_app
from tests.support import Account, served

HEAD = b"GET /health HTTP/1.1\r\nHost: x\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


class Connection:
    """A socket to the service, whose answers come as they are on the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self) -> tuple[bytes, bytes]:
        """The head and the body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All that comes until the service closes the connection."""
        async with asyncio.timeout(20):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def connected(base_url: str) -> AsyncIterator[Connection]:
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[str]:
    """A service of its own that cuts off slow senders after a moment."""
    monkeypatch.setattr(http_protocol, "SLOW_AFTER_SECONDS", 0.2)
    monkeypatch.setattr(http_protocol, "CHECK_EVERY_SECONDS", 0.1)
    with served(create_app(settings)) as base_url:
        yield base_url


@pytest.mark.parametrize("method", [b"POST", b"GET"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_an_upgrade_is_ignored_and_the_body_behind_it_is_read(
    alice: Account, method: bytes, framing: str
) -> None:
    # What a smuggled request would look like: it must stay a body.
    smuggled = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    if framing == "length":
        header, body = b"Content-Length: %d\r\n" % len(smuggled), smuggled
    else:
        header = b"Transfer-Encoding: chunked\r\n"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    head = (
        method + b" /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + alice.token.encode() + b"\r\n" + UPGRADE + header + b"\r\n"
    )
    for parts in ([head + body + HEAD + b"\r\n"], [head, body, HEAD + b"\r\n"]):
        async with connected(str(alice.client.base_url)) as connection:
            await connection.send(*parts)
            first, _ = await connection.answer()
            assert first.startswith(b"http/1.1 400 ")
            second, content = await connection.answer()
            assert second.startswith(b"http/1.1 200 ")
            assert b'"healthy"' in content


async def test_what_comes_behind_a_chunked_body_is_no_header(alice: Account) -> None:
    # A proxy has not looked at it: an address in it would be the client's own word.
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        b"Authorization: Bearer " + alice.token.encode() + b"\r\n"
        b"X-Request-ID: from-a-trailer\r\n\r\n"
    )
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head)
        answer, _ = await connection.answer()
    assert answer.startswith(b"http/1.1 401 ")
    assert b"from-a-trailer" not in answer


@pytest.mark.parametrize(
    "bad",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["coding", "TLS", "no host", "proxy"],
)
async def test_a_bad_request_behind_another_waits_for_its_turn(alice: Account, bad: bytes) -> None:
    get = (
        b"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + alice.token.encode()
        + b"\r\n\r\n"
    )
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(get + bad)
        answers = await connection.rest()
    # A 400 would be taken for the answer to the first.
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in answers


async def test_a_pipelined_request_knows_nothing_of_the_one_before_it() -> None:
    app = FastAPI()

    @app.get("/")
    async def remember() -> list[str]:
        before = list(structlog.contextvars.get_contextvars())
        structlog.contextvars.bind_contextvars(user_id=1)
        return before

    with served(app) as url:
        async with connected(url) as connection:
            await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            assert [(await connection.answer())[1] for _ in range(3)] == [b"[]"] * 3


async def test_upgrades_in_a_row_are_each_answered(alice: Account) -> None:
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send((HEAD + UPGRADE + b"\r\n") * 50)
        for _ in range(50):
            head, _ = await connection.answer()
            assert head.startswith(b"http/1.1 200 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET /health HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", id="a proxy's method"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="two lengths",
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="a compressed body"
        ),
        pytest.param(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", id="unlike lengths"),
        pytest.param(HEAD + b"X: y\r\n" * 11_000, id="a head without end"),
        pytest.param(b"GET /" + b"a" * 66_000, id="a path without end"),
    ],
)
async def test_what_is_no_request_gets_a_bare_400_and_the_connection_ends(
    alice: Account, request_bytes: bytes
) -> None:
    async with connected(str(alice.client.base_url)) as connection:
        with contextlib.suppress(ConnectionError):
            await connection.send(request_bytes)
        assert (await connection.rest()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


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
            await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=0.05)
    # Longer than a client may be silent.
    assert time.monotonic() - started > 4 * http_protocol.SLOW_AFTER_SECONDS


async def test_an_answer_of_many_megabytes_may_be_taken_in_steadily(impatient: str) -> None:
    requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 60
    taken = 0
    async with connected(impatient) as connection:
        await connection.send(requests)
        # Less in a second than the kernel keeps for a client, but far more than 4 KiB.
        for _ in range(75):
            taken += len(await connection.reader.readexactly(20_000))
            await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=0.02)
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
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.2)
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n")

        async def send_on() -> None:
            while True:
                await connection.send(b"1\r\n \r\n")

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_on(), 10)


async def test_a_stream_to_http_1_0_is_not_chunked_and_ends_with_the_connection(
    alice: Account,
) -> None:
    task = await alice.create_task()
    head = b"GET /api/v1/tasks/export HTTP/1.0\r\nAuthorization: Bearer " + alice.token.encode()
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head + b"\r\n\r\n")
        head, _, body = (await connection.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert json.loads(body) == [task]


async def test_http_1_0_with_an_upgrade_stays_http_1_0(alice: Account) -> None:
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(b"GET /health HTTP/1.0\r\n" + UPGRADE + b"\r\n")
        assert (await connection.rest()).startswith(b"HTTP/1.1 200 ")


async def test_a_head_of_70_kilobytes_in_one_piece_is_refused(alice: Account) -> None:
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n")
        assert (await connection.rest()).startswith(b"HTTP/1.1 400 ")


async def test_the_begin_of_a_request_behind_a_large_body_is_not_taken_for_a_large_head(
    alice: Account,
) -> None:
    body = json.dumps({"title": "Water", "description": "x" * 19_000, "metadata": {}}).encode()
    body += b" " * (90_000 - len(body))
    first = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (alice.token.encode(), len(body), body)
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(first + HEAD[:12])
        assert (await connection.answer())[0].startswith(b"http/1.1 201 ")
        await connection.send(HEAD[12:] + b"\r\n")
        assert (await connection.answer())[0].startswith(b"http/1.1 200 ")


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
            await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=0.02)
