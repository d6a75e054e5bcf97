"""What a worker keeps for slow clients, bounded for all of them together.

A client that sends or takes in its 4 KiB/s has all the time it needs, and meanwhile up to eight
megabytes of a body, or ten of an answer, stay in memory: a few hundred such clients would fill it.
"""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Any

import structlog

STATE_KEY = "taskflow.client_buffers"
MAXIMUM_KEPT_BYTES = 128 * 1024 * 1024
# Whoever needs longer for a body or an answer of at most ten megabytes may be cut off.
SLOW_AFTER_SECONDS = 5
# The part of the maximum that is free again when any had to be cut off.
ROOM_MADE = 1 / 16
RESET_AT_CLOSE = struct.pack("ii", 1, 0)

log = structlog.stdlib.get_logger("taskflow.request")


def reset(transport: asyncio.Transport) -> None:
    """End a connection and forget what its client has not read.

    With a reset: else the kernel would keep megabytes for the client for minutes.
    """
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    transport.abort()


def unread_in_kernel(transport: asyncio.Transport) -> int:
    """How many bytes the client has not acknowledged; 0 where the system does not tell.

    The kernel takes more only when a third of its megabytes are free: a client that reads steadily
    would seem to do nothing for minutes.
    """
    connection = transport.get_extra_info("socket")
    with suppress(OSError):
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)
    return 0


class Kept:
    """The bytes kept for each connection, and since when.

    Beyond `maximum`, of the clients that are slow those with the most are cut off. Those that are
    not may go beyond it: what a network carries in these few seconds is a bound as well.
    """

    def __init__(self, what: str, maximum: int) -> None:
        self._what = what
        self._maximum = maximum
        self._total = 0
        self._since: dict[asyncio.Transport, float] = {}
        self.sizes: dict[asyncio.Transport, int] = {}

    def add(self, connection: asyncio.Transport, size: int) -> None:
        """Count so many more bytes for the connection, until they are freed or it is cut off."""
        self._since.setdefault(connection, time.monotonic())
        self.sizes[connection] = self.sizes.get(connection, 0) + size
        self._total += size
        self.shed()

    def free(self, connection: asyncio.Transport) -> None:
        """Count nothing for the connection any more."""
        self._since.pop(connection, None)
        self._total -= self.sizes.pop(connection, 0)

    def shed(self) -> None:
        """Cut slow clients off while they keep too much. To be called from time to time."""
        if self._total <= self._maximum:
            return
        slow_since = time.monotonic() - SLOW_AFTER_SECONDS
        # They stand in the order in which they came.
        slow = list(takewhile(lambda one: self._since[one] < slow_since, self._since))
        slow.sort(key=self.sizes.__getitem__)
        # It takes time to find them, and would have to be done again for the next few bytes.
        enough = self._maximum * (1 - ROOM_MADE)
        while slow and self._total > enough:
            largest = slow.pop()
            log.warning("slow client cut off", kept=self._what, size=self.sizes[largest])
            self.free(largest)
            reset(largest)


class ClientBuffers:
    """Bodies of which the end has not come, and answers that were not read to the end.

    Lives in the state of the lifespan (ASGI), which the server shows to each connection.
    """

    def __init__(self, maximum: int = MAXIMUM_KEPT_BYTES) -> None:
        self.unfinished_bodies = Kept("body", maximum)
        self.unread_answers = Kept("answer", maximum)

    def shed(self) -> None:
        """See `Kept.shed`."""
        self.unfinished_bodies.shed()
        self.unread_answers.shed()


def client_buffers_of(state: Mapping[str, Any]) -> ClientBuffers:
    """Those in the state of a lifespan; those of one connection where no lifespan was begun."""
    return state.get(STATE_KEY) or ClientBuffers()
