"""Requests that are sent in a row wait for their turn, and their client is no worse off for it."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from app.server import pace
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
