"""Answers that wait in memory for slow readers take a bounded part of it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Response

from app.core.unread import STATE_KEY, UnreadAnswers
from tests.core.connections import connected
from tests.support import served, until

MEBIBYTE = 1024 * 1024
MAXIMUM = 20 * MEBIBYTE


def service(unread: UnreadAnswers) -> FastAPI:
    """A service that answers with as many mebibytes as the path says."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        yield {STATE_KEY: unread}

    app = FastAPI(lifespan=lifespan)

    @app.get("/{mebibytes}")
    async def answer(mebibytes: int) -> Response:
        return Response(bytes(mebibytes * MEBIBYTE))

    return app


def request(mebibytes: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % mebibytes


async def test_where_slow_readers_hold_too_much_the_one_with_the_most_is_cut_off() -> None:
    with served(service(UnreadAnswers(MAXIMUM))) as base_url:
        async with (
            connected(base_url, receive_buffer=65_536) as small,
            connected(base_url, receive_buffer=65_536) as large,
        ):
            await small.send(request(8))
            await small.reader.readuntil(b"\r\n\r\n")
            await large.send(request(16))
            with pytest.raises(ConnectionResetError):
                await large.rest()
            assert await small.reader.readexactly(8 * MEBIBYTE) == bytes(8 * MEBIBYTE)


async def test_a_connection_is_forgotten_when_it_was_read_or_has_ended() -> None:
    unread = UnreadAnswers(MAXIMUM)
    with served(service(unread)) as base_url:
        async with (
            connected(base_url, receive_buffer=65_536) as read,
            connected(base_url, receive_buffer=65_536) as left,
        ):
            for connection in (read, left):
                await connection.send(request(8))
                await connection.reader.readuntil(b"\r\n\r\n")
            await until(lambda: len(unread.connections) == 2)
            await read.reader.readexactly(8 * MEBIBYTE)
            await until(lambda: len(unread.connections) == 1)
        await until(lambda: not unread.connections)
