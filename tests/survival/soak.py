"""A mix of reads and writes for some time, and what the service takes of the machine meanwhile."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.__main__ import Bench
from tests.bench.data import seed
from tests.bench.processes import resident_megabytes, with_children
from tests.bench.sides import WORKERS, Side, running
from tests.db.support import eventually, run_sql
from tests.survival.cluster import cluster

SLICE_SECONDS = 10
POOL_SIZE = 10
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskflow'"


@dataclass(frozen=True)
class Reading:
    """What the service's processes take together, with nobody connected to them."""

    requests: int
    megabytes: float
    files: int
    threads: int
    connections: int


def soak(seconds: float, folder: Path, say: Callable[[str], None]) -> list[Reading]:
    """Keep taskflow busy for so long, as an operator runs it; a reading before and every 10 s.

    Raises `LoadFailed` for any answer but a 2xx.
    """
    readings: list[Reading] = []
    with cluster() as postgres, running("taskflow", postgres.url, folder) as side:
        people = asyncio.run(seed(postgres.url, users=20, tasks=100))
        bench = Bench([side], people, postgres.url)
        requests = 0
        deadline = time.monotonic() + seconds
        # What is filled once is no growth: prepared statements, whom tokens belong to, the pool.
        bench.saturate(side, "mix", min(SLICE_SECONDS, max(1, round(seconds / 5))))
        while True:
            readings.append(_reading(side, postgres.url, requests))
            say(f"{readings[-1]}")
            if time.monotonic() >= deadline:
                return readings
            for_now = max(1, round(min(SLICE_SECONDS, deadline - time.monotonic())))
            requests += round(bench.saturate(side, "mix", for_now).per_second * for_now)


def _reading(side: Side, url: str, requests: int) -> Reading:
    processes = list(with_children(side.pid))
    # The load has closed its connections, which the service is just being told.
    eventually(lambda: _sockets_of_clients(side) == 0)
    return Reading(
        requests,
        round(sum(resident_megabytes(side.pid).values()), 1),
        _entries(processes, "fd"),
        _entries(processes, "task"),
        run_sql(url, CONNECTIONS),
    )


def _entries(processes: list[int], folder: str) -> int:
    return sum(len(list(Path(f"/proc/{pid}/{folder}").iterdir())) for pid in processes)


def _sockets_of_clients(side: Side) -> int:
    """How many connections to the service's port are established."""
    port = f":{side.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    # The second field is the own address, the fourth the state, of which 01 is ESTABLISHED and 08
    # CLOSE_WAIT.
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(port) and row[3] in {"01", "08"} for row in rows)


def assert_nothing_grows(readings: list[Reading], *, megabytes: float) -> None:
    """The last reading is as the first, but for so many megabytes for each worker."""
    first, last = readings[0], readings[-1]
    assert last.requests > 0
    assert last.megabytes - first.megabytes <= megabytes * WORKERS
    assert last.threads <= first.threads
    assert last.connections <= POOL_SIZE * WORKERS
    # A pool that was not full yet may have opened more.
    assert last.files - last.connections <= first.files - first.connections
