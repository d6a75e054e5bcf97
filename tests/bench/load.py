"""Two kinds of load: as much as a side can bear, by wrk, and at a given rate, by a pacer."""

import json
import random
import re
import select
import socket
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.processes import processor_seconds

CONNECTIONS = 16
# So many that a stall does not keep the pacer from sending what is due.
PACED_CONNECTIONS = 64
# A request that takes longer has failed.
PATIENCE_SECONDS = 10
_SCRIPT = Path(__file__).parent / "lua" / "replay.lua"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class LoadFailed(Exception):
    """A side has refused or dropped requests."""


@dataclass(frozen=True)
class Slice:
    """What came of a time of load; the latencies are in milliseconds."""

    per_second: float
    p50: float
    p99: float
    # What the service computed for each request, the database not among it. A busy machine changes
    # it less than the rate.
    processor_ms: float


def saturate(base_url: str, pid: int, requests: Sequence[bytes], seconds: int) -> Slice:
    """Keep 16 connections of a service busy for so long; `pid` is its first process.

    Raises `LoadFailed` for any answer but a 2xx.
    """
    with tempfile.NamedTemporaryFile() as file:
        for request in requests:
            file.write(b"%d\n" % len(request) + request)
        file.flush()
        command = ["wrk", "--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds}s"]
        command += [f"--timeout={PATIENCE_SECONDS}s", f"--script={_SCRIPT}"]
        before = processor_seconds(pid)
        done = subprocess.run(
            [*command, base_url, "--", file.name], capture_output=True, text=True, check=False
        )
        computed = processor_seconds(pid) - before
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        raise LoadFailed(f"wrk ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(found[1])
    failed = {name: count for name, count in result["failed"].items() if count}
    if failed or not result["requests"]:
        raise LoadFailed(f"of {result['requests']} requests failed: {failed or 'all'}")
    return Slice(
        per_second=result["requests"] / result["microseconds"] * 1e6,
        p50=result["p50"] / 1000,
        p99=result["p99"] / 1000,
        processor_ms=computed / result["requests"] * 1000,
    )


@dataclass
class _Exchange:
    """A request on its way, and what has come of its answer."""

    due: float
    received: bytearray = field(default_factory=bytearray)

    def is_complete(self) -> bool:
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return False
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 2") or length is None:
            raise LoadFailed(f"the answer was {bytes(head[:40])!r}")
        return len(body) >= int(length[1])


@dataclass(frozen=True)
class Paced:
    """Latencies at a given rate in milliseconds, counted from the moment a request was due."""

    per_second: float
    p50: float
    p99: float
    # How late the pacer itself sent at the 99th percentile: what it adds to the latencies.
    lateness_p99: float


class Pacer:
    """Sends requests at random moments of a given mean rate, whatever the answers take.

    Latency counts from the moment at which a request was due, so that a stall is felt by all that
    were due meanwhile (no coordinated omission). The loop waits by select(2), whose timeout is in
    microseconds; epoll's is in milliseconds, which would send in bursts.
    """

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._address = ("127.0.0.1", port)
        self._requests = requests
        self._sent = 0
        self._idle: deque[socket.socket | None] = deque([None] * PACED_CONNECTIONS)
        self._busy: dict[socket.socket, _Exchange] = {}
        self._latencies: list[float] = []
        self._lateness: list[float] = []

    def run(self, rate: float, seconds: float) -> Paced:
        """Load for so long; `rate` is in requests a second. Raises `LoadFailed`."""
        chance = random.Random(self._sent)
        now = time.perf_counter()
        start, end = now, now + seconds
        upcoming = now + chance.expovariate(rate)
        due: deque[float] = deque()
        try:
            while upcoming < end or due or self._busy:
                now = time.perf_counter()
                while upcoming <= min(now, end):
                    due.append(upcoming)
                    upcoming += chance.expovariate(rate)
                while due and self._idle:
                    self._send(due.popleft())
                if now > end + PATIENCE_SECONDS:
                    raise LoadFailed(f"{len(self._busy)} requests got no answer")
                wait = upcoming - time.perf_counter() if upcoming < end else 0.1
                for connection in select.select(list(self._busy), [], [], max(0, wait))[0]:
                    self._receive(connection)
        finally:
            for opened in filter(None, [*self._idle, *self._busy]):
                opened.close()
        elapsed = time.perf_counter() - start
        return Paced(
            per_second=len(self._latencies) / elapsed,
            p50=statistics.median(self._latencies) * 1000,
            p99=_percentile_99(self._latencies) * 1000,
            lateness_p99=_percentile_99(self._lateness) * 1000,
        )

    def _send(self, due: float) -> None:
        # In turns: the few that would do might all belong to one of a side's processes.
        connection = self._idle.popleft() or self._connect()
        connection.sendall(self._requests[self._sent % len(self._requests)])
        self._sent += 1
        self._busy[connection] = _Exchange(due)
        self._lateness.append(time.perf_counter() - due)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, PATIENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _receive(self, connection: socket.socket) -> None:
        exchange = self._busy[connection]
        part = connection.recv(262_144)
        if not part:
            raise LoadFailed("a connection was closed before its answer")
        exchange.received += part
        if not exchange.is_complete():
            return
        self._latencies.append(time.perf_counter() - exchange.due)
        del self._busy[connection]
        # Synchronous workers serve one request per connection, and block on an idle one.
        if b"connection: close" in bytes(exchange.received[:1000]).lower():
            connection.close()
            self._idle.append(None)
        else:
            self._idle.append(connection)


def _percentile_99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
