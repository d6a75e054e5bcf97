"""What is kept in memory for slow clients takes a bounded part of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from app.core.client_buffers import STATE_KEY, ClientBuffers
from tests.core.connections import connected
from tests.support import served, until

MEBIBYTE = 1024 * 1024
MAXIMUM = 20 * MEBIBYTE


def service(buffers: ClientBuffers) -> FastAPI:
    """A service that answers with as many mebibytes as the path says."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        yield {STATE_KEY: buffers}

    app = FastAPI(lifespan=lifespan)

    @app.get("/{mebibytes}")
    async def answer(mebibytes: int) -> Response:
        return Response(bytes(mebibytes * MEBIBYTE))

    @app.post("/")
    async def length(request: Request) -> int:
        return len(await request.body())

    @app.post("/for-ever")
    async def work_for_ever(request: Request) -> None:
        await request.body()
        await asyncio.Event().wait()

    return app


def request(mebibytes: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % mebibytes


def head_of_body(mebibytes: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (mebibytes * MEBIBYTE)


async def test_where_slow_readers_hold_too_much_the_one_with_the_most_is_cut_off() -> None:
    with served(service(ClientBuffers(MAXIMUM))) as base_url:
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
    buffers = ClientBuffers(MAXIMUM)
    with served(service(buffers)) as base_url:
        async with (
            connected(base_url, receive_buffer=65_536) as read,
            connected(base_url, receive_buffer=65_536) as left,
        ):
            for connection in (read, left):
                await connection.send(request(8))
                await connection.reader.readuntil(b"\r\n\r\n")
            await until(lambda: len(buffers.unread_answers.sizes) == 2)
            await read.reader.readexactly(8 * MEBIBYTE)
            await until(lambda: len(buffers.unread_answers.sizes) == 1)
        await until(lambda: not buffers.unread_answers.sizes)
    assert buffers.unread_answers.sizes == {}


async def test_where_slow_senders_hold_too_much_the_one_with_the_most_is_cut_off() -> None:
    buffers = ClientBuffers(MAXIMUM)
    with served(service(buffers)) as base_url:
        async with connected(base_url) as small, connected(base_url) as large:
            await small.send(head_of_body(9), bytes(8 * MEBIBYTE))
            await until(lambda: sum(buffers.unfinished_bodies.sizes.values()) == 8 * MEBIBYTE)
            with suppress(ConnectionError):
                await large.send(head_of_body(15), bytes(14 * MEBIBYTE))
            with pytest.raises(ConnectionError):
                await large.rest()
            await small.send(bytes(MEBIBYTE))
            assert (await small.answer())[1] == b"%d" % (9 * MEBIBYTE)


async def test_a_body_is_forgotten_when_it_has_ended_or_was_answered_or_its_sender_is_gone() -> (
    None
):
    buffers = ClientBuffers(MAXIMUM)
    with served(service(buffers)) as base_url:
        async with connected(base_url) as gone:
            await gone.send(head_of_body(2), bytes(MEBIBYTE))
            await until(lambda: sum(buffers.unfinished_bodies.sizes.values()) == MEBIBYTE)
        await until(lambda: not buffers.unfinished_bodies.sizes)
        async with connected(base_url) as ended:
            await ended.send(head_of_body(1).replace(b"POST /", b"POST /for-ever"))
            await ended.send(bytes(MEBIBYTE - 1))
            await until(lambda: len(buffers.unfinished_bodies.sizes) == 1)
            await ended.send(b"0")
            await until(lambda: not buffers.unfinished_bodies.sizes)
        async with connected(base_url) as refused:
            await refused.send(head_of_body(2).replace(b"POST /", b"POST /1"), bytes(1000))
            assert (await refused.answer())[0].startswith(b"http/1.1 405 ")
            await until(lambda: not buffers.unfinished_bodies.sizes)
