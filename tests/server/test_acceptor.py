"""How a worker takes connections from a socket that it shares with others."""

import asyncio
import errno
import socket
from typing import Any

import pytest

from app.server import acceptor
from app.server.acceptor import Acceptor, Shares
from tests.server.connections import at_a_pace
from tests.support import until


class Exhausted(socket.socket):
    """A socket of a process that may open no more files."""

    refused = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.refused += 1
        raise OSError(errno.EMFILE, "Too many open files")


async def test_one_that_ends_when_it_can_take_no_connection_comes_back_to_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor, "RETRY_SECONDS", 0.1)
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    with Exhausted() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        one = Acceptor(listening, asyncio.Protocol, connections=[], shares=Shares(), seat=0)
        one.start(5)
        client.connect(listening.getsockname())
        await until(lambda: listening.refused == 1)
        one.close()
    # Longer than until the next attempt.
    await at_a_pace(0.2)
    loop.set_exception_handler(None)

    assert listening.refused == 2
    assert faults == []
