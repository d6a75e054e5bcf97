"""What is written on a connection for an answer, write by write."""

import asyncio
import logging
from typing import Any, cast

import pytest
from starlette.types import Message

from app.core.admission import Admission
from app.core.http_cycle import Cycle


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


class Flow:
    def resume_reading(self) -> None:
        pass

    write_paused = False


def cycle_on(transport: Transport, *, method: str = "GET", keep_alive: bool = True) -> Cycle:
    cycle = Cycle(
        scope=cast("Any", {"method": method}),
        transport=cast("Any", transport),
        flow=cast("Any", Flow()),
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
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


async def test_a_request_does_not_count_while_its_client_is_waited_for() -> None:
    admission = Admission(2, cors_origins=[])
    cycle = cycle_on(Transport())
    cycle.enter(admission)
    receiving = asyncio.ensure_future(cycle.receive())
    await asyncio.wait({receiving}, timeout=0)
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
