"""What is kept in memory for slow clients takes a bounded part of it."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
from fastapi import FastAPI, Request, Response
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.server import client_buffers, pace
from app.server.client_buffers import STATE_KEY, ClientBuffers, Kept
from app.server.cycle import Cycle
from app.server.protocol import PARSED_AT_ONCE
from tests.server.connections import connected
from tests.support import served, until

MEBIBYTE = 1024 * 1024
MAXIMUM = 20 * MEBIBYTE


@pytest.fixture
def all_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first moment on."""
    monkeypatch.setattr(client_buffers, "SLOW_AFTER_SECONDS", -1)


def service(buffers: ClientBuffers) -> FastAPI:
    """A service that answers with as many mebibytes, or bytes above a thousand, as asked."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        yield {STATE_KEY: buffers}

    app = FastAPI(lifespan=lifespan)

    @app.get("/{size}")
    async def answer(size: int) -> Response:
        return Response(bytes(size if size > 1000 else size * MEBIBYTE))

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


@pytest.mark.usefixtures("all_are_slow")
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


@pytest.mark.usefixtures("all_are_slow")
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


async def test_who_is_not_slow_is_not_cut_off() -> None:
    with served(service(ClientBuffers(MAXIMUM))) as base_url:
        async with connected(base_url) as reader, connected(base_url) as other:
            for connection in (reader, other):
                await connection.send(request(16))
            for connection in (reader, other):
                assert len((await connection.answer())[1]) == 16 * MEBIBYTE
            for connection in (reader, other):
                await connection.send(head_of_body(16), bytes(15 * MEBIBYTE))
            for connection in (reader, other):
                await connection.send(bytes(MEBIBYTE))
                assert (await connection.answer())[1] == b"%d" % (16 * MEBIBYTE)


async def test_who_becomes_slow_while_too_much_is_kept_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_buffers, "SLOW_AFTER_SECONDS", 1000)
    monkeypatch.setattr(pace, "CHECK_EVERY_SECONDS", 0.1)
    buffers = ClientBuffers(MAXIMUM)
    with served(service(buffers)) as base_url:
        async with connected(base_url) as small, connected(base_url) as large:
            await small.send(request(10))
            await large.send(request(12))
            await until(lambda: len(buffers.unread_answers.sizes) == 2)
            monkeypatch.setattr(client_buffers, "SLOW_AFTER_SECONDS", -1)
            await until(lambda: len(buffers.unread_answers.sizes) == 1)
            with pytest.raises(ConnectionResetError):
                await large.rest()
            assert len((await small.answer())[1]) == 10 * MEBIBYTE


async def test_all_of_an_answer_counts_while_any_of_it_waits() -> None:
    buffers = ClientBuffers(MAXIMUM)
    with served(service(buffers)) as base_url:
        async with (
            connected(base_url, receive_buffer=65_536) as first,
            connected(base_url, receive_buffer=65_536) as second,
        ):
            await first.send(request(8))
            await until(lambda: len(buffers.unread_answers.sizes) == 1)
            ((transport, size),) = buffers.unread_answers.sizes.items()
            taken_by_the_kernel = size - transport.get_write_buffer_size()
            await second.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % taken_by_the_kernel)
            await until(lambda: len(buffers.unread_answers.sizes) == 2)
            assert min(buffers.unread_answers.sizes.values()) > taken_by_the_kernel


async def test_a_body_behind_another_request_counts_when_that_is_answered() -> None:
    buffers = ClientBuffers(MAXIMUM)
    with served(service(buffers)) as base_url:
        async with connected(base_url) as connection:
            await connection.send(request(1) + head_of_body(1) + bytes(1000))
            await connection.answer()
            await until(lambda: len(buffers.unread_answers.sizes) == 0)
            assert list(buffers.unfinished_bodies.sizes.values()) == [1000]


def requests_in_memory(buffers: ClientBuffers) -> int:
    """Those of the service that has these; others of other tests may not be collected yet."""
    kinds = {Cycle, RequestResponseCycle}
    # The service runs in another thread, which may be about to make one.
    scopes = [vars(one).get("scope", {}) for one in gc.get_objects() if type(one) in kinds]
    return sum(scope.get("state", {}).get(STATE_KEY) is buffers for scope in scopes)


async def test_requests_in_a_row_stay_as_they_came_until_it_is_their_turn() -> None:
    buffers = ClientBuffers(MAXIMUM)
    sizes = [1001 + number % 7 for number in range(4000)]
    row = b"".join(request(size) for size in sizes)
    with served(service(buffers)) as base_url:
        async with connected(base_url) as connection:
            # Nobody takes in the first answer, so that it is the turn of none behind it.
            await connection.send(request(50) + row)
            await until(lambda: requests_in_memory(buffers) > 1)
            async with connected(base_url) as other:
                # By then whatever was read of the row has been parsed.
                await other.send(request(1001))
                await other.answer()
            in_memory = requests_in_memory(buffers)
            answers = [await connection.answer() for _ in range(1 + len(sizes))]
            await until(lambda: buffers.unfinished_bodies.sizes == {})

    assert in_memory <= 2 + PARSED_AT_ONCE / len(request(sizes[0]))
    assert [len(body) for _, body in answers[1:]] == sizes


async def test_bodies_in_a_row_are_each_read_by_their_own_request() -> None:
    lengths = [PARSED_AT_ONCE + difference for difference in range(-120, 20)]
    lengths += [0, 1, 100_000, 300_000, 0, 2_000_000, 3]
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    row = b"".join(head % length + bytes(length) for length in lengths)
    with served(service(ClientBuffers(MAXIMUM))) as base_url:
        async with connected(base_url) as connection:
            sending = asyncio.create_task(connection.send(row))
            answers = [await connection.answer() for _ in lengths]
            await sending

    assert [int(body) for _, body in answers] == lengths


async def test_what_waits_for_its_turn_is_counted_once() -> None:
    buffers = ClientBuffers(MAXIMUM)
    app = service(buffers)
    is_enough = threading.Event()

    @app.post("/until-told")
    async def work_until_told(request: Request) -> None:
        await request.body()
        await asyncio.to_thread(is_enough.wait)

    first = b"POST /until-told HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n0"
    row = 600 * request(1001)

    def kept() -> int:
        return sum(buffers.unfinished_bodies.sizes.values())

    with served(app) as base_url:
        async with connected(base_url) as connection:
            await connection.send(first + row)
            await until(lambda: kept() > 0)
            # The first has asked for its body, so more is read.
            await connection.send(row)
            await until(lambda: kept() > len(row))
            in_all = kept()
            is_enough.set()
            for _ in range(1201):
                await connection.answer()
            await until(lambda: kept() == 0)

    assert in_all == len(first + row + row) - PARSED_AT_ONCE


async def test_a_body_that_has_come_in_a_row_is_there_when_its_request_begins() -> None:
    unread = b"POST /1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 20000\r\n\r\n"
    row = request(1001) + unread + bytes(20_000) + request(1002)
    with served(service(ClientBuffers(MAXIMUM))) as base_url:
        async with connected(base_url) as connection:
            await connection.send(row)
            answers = [await connection.answer() for _ in range(3)]

    assert [len(body) for _, body in answers[::2]] == [1001, 1002]
    assert answers[1][0].startswith(b"http/1.1 405 ")
    assert b"connection: close" not in answers[1][0]


def crowd(count: int) -> tuple[Kept, list[Any]]:
    """So many clients with 100 bytes each, every second one with 400 more, in room for 30 each."""
    kept = Kept("body", 30 * count)
    clients: list[Any] = [object() for _ in range(count)]
    for client in clients:
        kept.add(client, 100)
    for client in clients[::2]:
        kept.add(client, 400)
    return kept, clients


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Who is, in order."""
    clients: list[Any] = []
    monkeypatch.setattr(client_buffers, "reset", clients.append)
    # To note thousands of lines, or to write them, takes longer than all the rest.
    monkeypatch.setattr(client_buffers, "log", structlog.wrap_logger(structlog.ReturnLogger(), []))
    return clients


def test_those_with_the_most_go_first_until_there_is_room_for_what_comes_next(
    monkeypatch: pytest.MonkeyPatch, cut_off: list[Any]
) -> None:
    kept, clients = crowd(10_000)
    assert cut_off == []

    # All become slow together.
    monkeypatch.setattr(client_buffers, "SLOW_AFTER_SECONDS", -1)
    kept.shed()
    assert sum(kept.sizes.values()) <= 300_000
    assert set(cut_off[:5_000]) == set(clients[::2])
    count = len(cut_off)
    for client in clients[:100]:
        kept.add(client, 100)
    assert len(cut_off) == count


def test_to_cut_off_ten_times_as_many_takes_no_more_than_some_ten_times_as_long(
    monkeypatch: pytest.MonkeyPatch, cut_off: list[Any]
) -> None:
    def seconds(count: int) -> float:
        with monkeypatch.context() as patch:
            kept, _ = crowd(count)
            patch.setattr(client_buffers, "SLOW_AFTER_SECONDS", -1)
            started = time.thread_time()
            kept.shed()
            return time.thread_time() - started

    few = min(seconds(2_000) for _ in range(5))
    many = min(seconds(20_000) for _ in range(5))
    assert cut_off
    # If the largest were looked for each time, it would be a hundred times as long.
    assert many < 30 * few
