"""Requests that are sent in a row wait for their turn, and their client is no worse off for it."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from app.server import pace
from app.server.protocol import PARSED_AT_ONCE
from app.server.run import SERVER_OPTIONS
from tests.server.connections import HEAD, at_a_pace, connected
from tests.support import served


async def test_requests_that_wait_for_their_turn_do_not_make_their_client_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "SLOW_AFTER_SECONDS", 0.2)
    monkeypatch.setattr(pace, "CHECK_EVERY_SECONDS", 0.1)
    app = FastAPI()

    @app.get("/")
    async def take_time() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x"
                await at_a_pace(0.06)

        return StreamingResponse(parts())

    @app.get("/health")
    async def health() -> None:
        pass

    row = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + 400 * (HEAD + b"\r\n")
    with served(app) as base_url:
        async with connected(base_url) as connection:
            await connection.send(row + HEAD + b"Connection: close\r\n\r\n")
            assert (await connection.rest()).count(b"HTTP/1.1 200 ") == 402


async def test_a_request_behind_the_rest_of_an_answered_one_may_take_longer_than_idleness(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SERVER_OPTIONS, "timeout_keep_alive", 0.1)
    app = FastAPI()

    @app.post("/")
    async def answer_at_once() -> None:
        pass

    @app.get("/health")
    async def take_time() -> None:
        await at_a_pace(0.3)

    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % PARSED_AT_ONCE
    with served(app) as base_url:
        async with connected(base_url) as connection:
            await connection.send(head)
            await connection.answer()
            await connection.send(bytes(PARSED_AT_ONCE) + HEAD + b"\r\n")
            assert (await connection.answer())[1] == b"null"


async def test_who_still_sends_a_row_can_read_the_last_answer() -> None:
    app = FastAPI()

    @app.get("/health")
    async def close() -> Response:
        return Response(headers={"Connection": "close"})

    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n" + bytes(700_000)
    with served(app) as base_url:
        async with connected(base_url) as connection:
            await connection.send(400 * (HEAD + b"\r\n") + body)
            assert (await connection.rest()).startswith(b"HTTP/1.1 200 ")
