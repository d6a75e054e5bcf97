"""What is written on a connection for an answer, write by write."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from starlette.types import Message

from app.core.errors import Overloaded
from app.server.admission import Admission
from app.server.cycle import Cycle


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


OK = start()
LENGTH_2 = start((b"content-length", b"2"))


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


class Flow:
    def __init__(self) -> None:
        self.write_paused = False
        self.is_taken_in = asyncio.Event()

    def resume_reading(self) -> None:
        pass

    async def drain(self) -> None:
        await self.is_taken_in.wait()
        self.write_paused = False


def cycle_on(
    transport: Transport,
    *,
    method: str = "GET",
    keep_alive: bool = True,
    flow: Flow | None = None,
    expect_100_continue: bool = False,
) -> Cycle:
    cycle = Cycle(
        scope=cast("Any", {"method": method}),
        transport=cast("Any", transport),
        flow=cast("Any", flow or Flow()),
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=expect_100_continue,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    cycle.close_connection = transport.close
    return cycle


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def test_an_answer_is_written_in_one_piece() -> None:
    transport = Transport()
    cycle = cycle_on(transport)
    await cycle.send(LENGTH_2)
    assert transport.written == []
    await cycle.send(part(b"ok"))

    head = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\n"
    assert transport.written == [head + b"ok"]
    assert cycle.response_complete
    assert not transport.is_closed


async def test_a_stream_is_written_in_chunks_the_first_with_the_head() -> None:
    transport = Transport()
    cycle = cycle_on(transport, keep_alive=False)
    await cycle.send(OK)
    await cycle.send(part(b"one", more=True))
    await cycle.send(part(b"", more=True))
    await cycle.send(part(b"two"))

    head, _, first = b"".join(transport.written[:1]).partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[2:] == [b"connection: close", b"transfer-encoding: chunked"]
    assert first == b"3\r\none\r\n"
    assert b"".join(transport.written[1:]) == b"3\r\ntwo\r\n0\r\n\r\n"
    assert transport.is_closed


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("POST", 204)])
async def test_what_has_no_body_gets_a_head_alone(method: str, status: int) -> None:
    transport = Transport()
    cycle = cycle_on(transport, method=method)
    await cycle.send(start(status=status))
    await cycle.send(part(b""))

    (written,) = transport.written
    assert written.endswith(b"date: now\r\n\r\n")
    assert b"transfer-encoding" not in written


async def test_the_body_of_an_answer_to_head_is_left_away_and_its_length_is_told() -> None:
    transport = Transport()
    cycle = cycle_on(transport, method="HEAD")
    await cycle.send(LENGTH_2)
    await cycle.send(part(b"ok"))

    assert b"".join(transport.written).endswith(b"content-length: 2\r\n\r\n")
    assert cycle.response_complete


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_an_answer_that_says_so_itself_ends_the_connection_and_says_it_once(
    *, keep_alive: bool
) -> None:
    transport = Transport()
    cycle = cycle_on(transport, keep_alive=keep_alive)
    await cycle.send(start((b"content-length", b"2"), (b"connection", b"Close")))
    await cycle.send(part(b"ok"))

    assert b"".join(transport.written).lower().count(b"connection: close\r\n") == 1
    assert transport.is_closed


async def test_behind_an_answer_nobody_is_told_to_go_on_sending() -> None:
    transport = Transport()
    cycle = cycle_on(transport, expect_100_continue=True)
    await cycle.send(LENGTH_2)
    cycle.message_event.set()
    await cycle.receive()
    await cycle.send(part(b"ok"))

    assert b"100 Continue" not in b"".join(transport.written)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([part(b"x")], id="a body before its head"),
        pytest.param([OK, OK], id="two heads"),
        pytest.param([LENGTH_2, part(b"x")], id="too short"),
        pytest.param([LENGTH_2, part(b"xyz", more=True)], id="too long"),
        pytest.param([OK, part(b"x"), part(b"x")], id="more behind the end"),
        pytest.param([start((b"location", b"/x\r\nset-cookie: y"))], id="a line break"),
        pytest.param([start((b"location", b"/x\n"))], id="half a line break"),
    ],
)
async def test_an_answer_that_is_no_http_is_refused(messages: list[Message]) -> None:
    cycle = cycle_on(Transport())
    for message in messages[:-1]:
        await cycle.send(message)
    with pytest.raises(RuntimeError):
        await cycle.send(messages[-1])


async def test_nothing_is_written_for_a_client_that_has_gone() -> None:
    transport = Transport()
    cycle = cycle_on(transport)
    await cycle.send(OK)
    cycle.disconnected = True
    await cycle.send(part(b"x"))

    assert transport.written == []


async def test_a_client_that_has_gone_is_not_waited_for() -> None:
    transport, flow = Transport(), Flow()
    cycle = cycle_on(transport, flow=flow)
    await cycle.send(OK)
    flow.write_paused = cycle.disconnected = True
    async with asyncio.timeout(5):
        await cycle.send(part(b"x"))

    assert transport.written == []


async def begun(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """The work as a task that has come as far as it does by itself."""
    task = asyncio.create_task(work)
    await asyncio.wait({task}, timeout=0)
    return task


async def test_a_request_does_not_count_while_its_client_is_waited_for() -> None:
    admission = Admission(2, cors_origins=[])
    cycle = cycle_on(Transport())
    cycle.enter(admission)
    receiving = await begun(cycle.receive())
    assert admission.at_work == 0

    # The answer begins before the end of the request has come.
    await cycle.send(OK)
    assert admission.at_work == 1
    admission.at_work += 2
    cycle.more_body = False
    cycle.message_event.set()
    assert (await receiving)["type"] == "http.request"
    assert admission.at_work == 3

    await cycle.send(part(b"done"))
    cycle.leave()
    assert admission.at_work == 2


async def test_a_request_counts_when_all_of_it_is_there_until_it_is_answered() -> None:
    admission = Admission(2, cors_origins=[])
    cycle = cycle_on(Transport())
    cycle.enter(admission)
    receiving = await begun(cycle.receive())
    cycle.more_body = False
    cycle.message_event.set()
    await receiving
    assert admission.at_work == 1

    # Whoever streams an answer waits at the same time for its client to go.
    receiving = await begun(cycle.receive())
    assert admission.at_work == 1
    await cycle.send(LENGTH_2)
    await cycle.send(part(b"ok"))
    assert admission.at_work == 0
    assert (await receiving)["type"] == "http.disconnect"


async def test_a_request_counts_while_it_is_answered_though_its_end_is_still_waited_for() -> None:
    admission = Admission(2, cors_origins=[])
    cycle = cycle_on(Transport())
    cycle.enter(admission)
    await cycle.send(OK)
    receiving = await begun(cycle.receive())
    assert admission.at_work == 1
    receiving.cancel()


async def test_a_request_does_not_count_while_its_answer_waits_for_a_slow_reader() -> None:
    admission, transport, flow = Admission(2, cors_origins=[]), Transport(), Flow()
    cycle = cycle_on(transport, flow=flow)
    cycle.enter(admission)
    await cycle.send(OK)
    await cycle.send(part(b"one", more=True))
    flow.write_paused = True
    sending = await begun(cycle.send(part(b"two", more=True)))
    assert admission.at_work == 0
    assert len(transport.written) == 1

    flow.is_taken_in.set()
    await sending
    assert admission.at_work == 1
    assert transport.written[1:] == [b"3\r\ntwo\r\n"]


async def test_a_request_is_begun_when_the_answer_before_it_was_taken_in() -> None:
    admission, flow = Admission(2, cors_origins=[]), Flow()
    cycle = cycle_on(Transport(), flow=flow)
    cycle.enter(admission)
    flow.write_paused = True
    begun_with: list[int] = []

    async def application(_: object, __: object, send: Any) -> None:
        begun_with.append(admission.at_work)
        await send(LENGTH_2)
        await send(part(b"ok"))

    running = await begun(cycle.run_asgi(cast("Any", application)))
    assert (begun_with, admission.at_work) == ([], 0)

    flow.is_taken_in.set()
    await running
    assert begun_with == [1]


async def test_whoever_goes_before_the_request_is_begun_leaves_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    admission, transport, flow = Admission(2, cors_origins=[]), Transport(), Flow()
    cycle = cycle_on(transport, flow=flow)
    cycle.enter(admission)
    flow.write_paused = True
    running = await begun(cycle.run_asgi(cast("Any", None)))
    running.cancel()
    await asyncio.wait({running})
    cycle.leave()

    assert not running.cancelled()
    assert running.exception() is None
    assert caplog.records == []
    assert (transport.written, transport.is_closed, admission.at_work) == ([], True, 0)


@pytest.mark.parametrize(
    ("more_body", "disconnected", "is_refused"),
    [(False, False, True), (True, False, False), (False, True, False)],
    ids=["its end", "a part of it", "that its client has gone"],
)
async def test_a_full_worker_refuses_a_request_only_when_its_end_comes(
    *, more_body: bool, disconnected: bool, is_refused: bool
) -> None:
    admission = Admission(2, cors_origins=[])
    cycle = cycle_on(Transport())
    cycle.enter(admission)
    receiving = await begun(cycle.receive())
    admission.at_work += 2
    cycle.more_body, cycle.disconnected = more_body, disconnected
    cycle.message_event.set()
    await asyncio.wait({receiving})

    assert isinstance(receiving.exception(), Overloaded) == is_refused
