"""Load over loopback: by so many clients at once, or by a clock that waits for nobody."""

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

PATIENCE_SECONDS = 20


@dataclass
class Outcome:
    """What became of the requests: seconds until the answer, by status."""

    elapsed: float = 0.0
    latencies: dict[int, list[float]] = field(default_factory=dict)
    broken: int = 0

    def count(self, status: int) -> int:
        return len(self.latencies.get(status, []))

    def per_second(self, status: int) -> float:
        return self.count(status) / self.elapsed

    def quantile(self, status: int, part: float) -> float:
        values = sorted(self.latencies[status])
        return values[min(len(values) - 1, int(len(values) * part))]


class _Connection(asyncio.Protocol):
    """Sends one request at a time. Answers have a Content-Length, as those of the service do."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = b""
        self._due = 0.0
        self._length = 0
        self._status = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._load.is_free(self)

    def send(self, due: float) -> None:
        assert self.transport is not None
        self._due = due
        self._received, self._length = b"", 0
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._length:
            head, separator, _ = self._received.partition(b"\r\n\r\n")
            if not separator:
                return
            self._status = int(head[9:12])
            declared = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._length = len(head) + 4 + int(declared)
        if len(self._received) >= self._length:
            self._load.is_answered(self._status, time.perf_counter() - self._due)
            self._due = 0.0
            self._load.is_free(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self._due:
            self._load.is_broken()


class Load:
    """The same request again and again, over connections that are kept."""

    def __init__(self, base_url: str, path: str, token: str) -> None:
        address = urlsplit(base_url)
        self._address = (str(address.hostname), address.port or 0)
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        self._free: deque[_Connection] = deque()
        self._connections: list[_Connection] = []
        self._outcome = Outcome()
        self._under_way = 0
        self._is_closed_loop = False
        self._is_ending = False
        self._ended = asyncio.Event()

    async def by_clients(self, clients: int, seconds: float) -> Outcome:
        """Each of so many clients sends its next request when it has the answer to the last."""
        await self._connect(clients)
        self._is_closed_loop = True
        started = self._begin()
        for _ in range(clients):
            self._send(self._free.popleft(), started)
        asyncio.get_running_loop().call_later(seconds, self._stop)
        return await self._end(started)

    async def by_clock(self, rate: float, seconds: float, *, connections: int) -> Outcome:
        """Requests at random moments of this mean rate, whether there are answers or not.

        Latency counts from the moment at which a request was due.
        """
        await self._connect(connections)
        self._is_closed_loop = False
        started = self._begin()
        chance = random.Random(7)  # noqa: S311 - the same load in every run
        upcoming = started
        pause = asyncio.Event()
        loop = asyncio.get_running_loop()
        while upcoming < started + seconds:
            now = time.perf_counter()
            while upcoming <= now:
                assert self._free, "the load needs more connections"
                self._send(self._free.popleft(), upcoming)
                upcoming += chance.expovariate(rate)
            pause.clear()
            loop.call_later(max(0.001, upcoming - now), pause.set)
            await pause.wait()
        self._stop()
        return await self._end(started)

    def close(self) -> None:
        for connection in self._connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _connect(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        while len(self._connections) < count:
            _, connection = await loop.create_connection(lambda: _Connection(self), *self._address)
            self._connections.append(connection)

    def _begin(self) -> float:
        self._outcome = Outcome()
        self._is_ending = False
        self._ended.clear()
        return time.perf_counter()

    def _send(self, connection: _Connection, due: float) -> None:
        self._under_way += 1
        connection.send(due)

    def _stop(self) -> None:
        self._is_closed_loop = False
        self._is_ending = True
        if not self._under_way:
            self._ended.set()

    async def _end(self, started: float) -> Outcome:
        async with asyncio.timeout(PATIENCE_SECONDS + 60):
            await self._ended.wait()
        self._outcome.elapsed = time.perf_counter() - started
        return self._outcome

    def is_free(self, connection: _Connection) -> None:
        if self._is_closed_loop:
            self._send(connection, time.perf_counter())
        else:
            self._free.append(connection)
            if self._is_ending and not self._under_way:
                self._ended.set()

    def is_answered(self, status: int, seconds: float) -> None:
        self._under_way -= 1
        self._outcome.latencies.setdefault(status, []).append(seconds)

    def is_broken(self) -> None:
        self._under_way -= 1
        self._outcome.broken += 1
