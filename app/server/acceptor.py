"""Accepts the connections of a worker, and of several workers for each its share.

Workers listen on one socket, and for a new connection the kernel wakes them all. If whoever is
first took it, one of them would take most of the many that come when a client starts, and since
clients keep their connections, it would have most of the work from then on.
"""

import asyncio
import ctypes
import errno
import multiprocessing
import socket
from collections.abc import Callable, Sized

import structlog

# Twice as many as there may be workers: each is replaced before it ends.
SEATS = 512
# How long, in seconds, a worker leaves a connection to another one that has fewer. Then it takes it
# itself, as that one is busy or stopped.
GRACE_SECONDS = 0.002
# By which part a worker may have more connections than another, so that each can take many in a row
# when thousands come together.
TOLERANCE = 1 / 16
# So many new connections are taken before those that are there are served again.
ACCEPTED_AT_ONCE = 32
# How long a process without free file descriptors waits for one.
RETRY_SECONDS = 0.5
_NOBODY = 2**31 - 1
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = structlog.stdlib.get_logger("taskflow.server")


class Shares:
    """How many connections each worker has, in memory that those started from here have in common.

    A worker has a seat, a number below `SEATS`, that no other has while it lives. The number that a
    killed worker leaves in its seat stays until another is started. Meanwhile connections may be
    left to it, and be taken `GRACE_SECONDS` late.
    """

    def __init__(self) -> None:
        self._counts = multiprocessing.get_context("spawn").RawArray(
            ctypes.c_int32, [_NOBODY] * SEATS
        )

    def tell(self, seat: int, count: int) -> None:
        """Let the others know how many connections the worker on this seat has."""
        self._counts[seat] = count

    def leave(self, seat: int) -> None:
        """The worker on this seat takes no more connections."""
        self._counts[seat] = _NOBODY

    def is_due(self, seat: int) -> bool:
        """Whether the next connection is for this worker: none has much fewer."""
        return self._counts[seat] * (1 - TOLERANCE) <= min(self._counts[:])


class Acceptor:
    """Gives connections of a listening socket to the running event loop.

    `connections` are those that the worker has; `protocol` makes what serves a new one.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        connections: Sized,
        shares: Shares,
        seat: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._protocol = protocol
        self._connections = connections
        self._shares = shares
        self._seat = seat
        self._arriving: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._backlog = 0

    def start(self, backlog: int) -> None:
        """Listen; at most `backlog` connections wait to be accepted."""
        self._listening.settimeout(0)
        self._listening.listen(backlog)
        self._backlog = backlog
        self.tell()
        self._loop.add_reader(self._listening, self._accept_if_due)

    def close(self) -> None:
        """Accept what waits, and no more. The socket stays open."""
        self._stop_waiting()
        for _ in range(self._backlog):
            if not self._accept():
                break
        # It may have found that none can be accepted for the moment.
        self._stop_waiting()
        self._shares.leave(self._seat)

    def _stop_waiting(self) -> None:
        self._loop.remove_reader(self._listening)
        if self._later is not None:
            self._later.cancel()

    def tell(self) -> None:
        """Let the other workers know how many connections this one has by now."""
        self._shares.tell(self._seat, len(self._connections) + len(self._arriving))

    def _accept_if_due(self) -> None:
        self.tell()
        for _ in range(ACCEPTED_AT_ONCE):
            if not self._shares.is_due(self._seat):
                self._pause(GRACE_SECONDS)
                return
            if not self._accept():
                return

    def _accept_late(self) -> None:
        self._later = None
        self._loop.add_reader(self._listening, self._accept_if_due)
        self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._later = self._loop.call_later(seconds, self._accept_late)

    def _accept(self) -> bool:
        """Take a connection; False if there was none, it had failed, or none can be taken."""
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                log.warning("cannot accept connections", reason=error.strerror)
                self._pause(RETRY_SECONDS)
            return False
        connection.settimeout(0)
        task = self._loop.create_task(self._serve(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        self.tell()
        return True

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            # Its client has gone already.
            connection.close()
        except BaseException:
            connection.close()
            raise
