"""What is a request on a connection, and where one ends and the next begins."""

import asyncio
import contextlib
import json

import pytest
import structlog
from fastapi import FastAPI

from app.server import protocol
from tests.server.connections import HEAD, UPGRADE, connected
from tests.support import Account, served


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
    ("target", "headers", "status"),
    [
        (b"http://x", b"", b"307 "),
        (b"HTTP://x?a=b", b"", b"307 "),
        (b"http://x", UPGRADE, b"307 "),
        (b"http://x/health", b"", b"200 "),
    ],
)
async def test_a_target_in_absolute_form_may_be_without_a_path(
    alice: Account, target: bytes, headers: bytes, status: bytes
) -> None:
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (target, headers))
        answer, _ = await connection.answer()
        assert answer.startswith(b"http/1.1 " + status)


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


@pytest.mark.parametrize(("version", "says"), [(b"1.1", True), (b"1.0", False)])
async def test_only_a_client_that_knows_it_is_told_to_go_on_sending(
    alice: Account, version: bytes, *, says: bool
) -> None:
    head = (
        b"POST /api/v1/tasks HTTP/%s\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: 13\r\nAuthorization: Bearer %s\r\n\r\n"
    ) % (version, alice.token.encode())
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head, b'{"title":"x"}')
        answer = await connection.rest()
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n") is says
    assert b"HTTP/1.1 201 " in answer


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


@pytest.mark.parametrize("coding", [b"Chunked", b"CHUNKED", b" chunked "])
async def test_the_name_of_the_transfer_coding_is_known_in_any_case(
    alice: Account, coding: bytes
) -> None:
    head = (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nTransfer-Encoding: %b\r\n\r\n"
    ) % (alice.token.encode(), coding)
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(head + b'e\r\n{"title": "x"}\r\n0\r\n\r\n')
        assert (await connection.answer())[0].startswith(b"http/1.1 201 ")


def chunked_post(account: Account) -> bytes:
    return (
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n"
    ) % account.token.encode()


async def test_a_body_that_turns_out_bad_is_answered_400_if_nothing_was_answered_yet(
    alice: Account,
) -> None:
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(chunked_post(alice) + b"1\r\n{\r\n", b"zz\r\n")
        assert (await connection.rest()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_what_comes_behind_a_chunked_body_may_not_go_on_without_end(
    alice: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAXIMUM_MESSAGE_BYTES", 100_000)
    async with connected(str(alice.client.base_url)) as connection:
        await connection.send(chunked_post(alice) + b"2\r\n{}\r\n0\r\n")

        async def send_on() -> None:
            while True:
                await connection.send(b"X: y\r\n" * 1000)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_on(), 5)
