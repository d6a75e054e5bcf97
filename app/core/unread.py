"""What waits in a worker's memory for clients that are slow to read, bounded for all together."""

import asyncio
import socket
import struct
from collections.abc import Mapping
from typing import Any

import structlog

STATE_KEY = "taskflow.unread_answers"
MAXIMUM_UNREAD_BYTES = 128 * 1024 * 1024
RESET_AT_CLOSE = struct.pack("ii", 1, 0)

log = structlog.stdlib.get_logger("taskflow.request")


def reset(transport: asyncio.Transport) -> None:
    """End a connection and forget what its client has not read.

    With a reset: else the kernel would keep megabytes for the client for minutes.
    """
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    transport.abort()


class UnreadAnswers:
    """The connections of a worker on which more waits to be read than the kernel keeps.

    Each reader that takes in its 4 KiB/s has all the time it needs, with an answer of up to ten
    megabytes in memory: a few hundred of them would fill it. So where they have more than `maximum`
    bytes together, the one with the most is cut off. Lives in the state of the lifespan (ASGI).
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.connections: dict[asyncio.Transport, int] = {}

    def add(self, connection: asyncio.Transport, size: int) -> None:
        """Count what was written last, in bytes, until the connection is discarded or cut off.

        It is kept whole until the last of it was read.
        """
        self.connections[connection] = size
        while sum(self.connections.values()) > self._maximum:
            largest = max(self.connections, key=self.connections.__getitem__)
            unread_bytes = self.connections.pop(largest)
            log.warning("slow reader cut off", unread_bytes=unread_bytes)
            reset(largest)

    def discard(self, connection: asyncio.Transport) -> None:
        """Count the connection no more: its client has read on, or is gone."""
        self.connections.pop(connection, None)


def unread_answers_of(state: Mapping[str, Any]) -> UnreadAnswers:
    """Those in the state of a lifespan; those of one connection where no lifespan was begun."""
    return state.get(STATE_KEY) or UnreadAnswers(MAXIMUM_UNREAD_BYTES)
