"""Servers that could run the application, compared by what they do to its clients.

`taskflow serve` is uvicorn in a protocol and under a supervisor of our own. Beside it stand uvicorn
as it comes, and gunicorn with its own ASGI worker.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.bench.sides import PEER_ENVIRONMENT, PEER_LOCK
from tests.conftest import NewDatabase
from tests.contract.conformance import others_answer
from tests.db.support import eventually
from tests.sdk.tools import ROOT, install_locked
from tests.support import CLEAN_ENVIRONMENT, SECRET_KEY, TASKFLOW, blocking_client
from tests.survival.cluster import descendants, free_port, kill_all
from tests.survival.test_restarts import failures
from tests.survival.writers import Writers

pytestmark = pytest.mark.endurance

RESTARTS = 5
WORKERS = 2
# Writers want the cores too.
RESTARTED_WITHIN_SECONDS = 90
SLOW_SENDERS = 50
CLOSED_WITHIN_SECONDS = 30
SERVERS = ("taskflow serve", "uvicorn", "gunicorn")


def command(server: str, port: int) -> list[str | Path]:
    if server == "taskflow serve":
        return [TASKFLOW, "serve"]
    options: list[str | Path] = [f"--workers={WORKERS}", "app.main:app"]
    if server == "uvicorn":
        options += ["--no-access-log", "--timeout-graceful-shutdown=8"]
        return [sys.executable, "-m", "uvicorn", f"--port={port}", *options]
    address = f"--bind=127.0.0.1:{port}"
    return [sys.executable, "-m", "gunicorn", "--worker-class=asgi", address, *options]


@contextmanager
def running(server: str, database_url: str, log: Path) -> Iterator[tuple[int, str]]:
    """The process id of the server, and its URL."""
    install_locked(PEER_ENVIRONMENT, PEER_LOCK)
    (packages,) = PEER_ENVIRONMENT.glob("lib/python*/site-packages")
    port = free_port()
    environment = {
        "ENVIRONMENT": "production",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        "WORKERS": str(WORKERS),
        "PORT": str(port),
        "RATE_LIMIT_API": "",
        "SHUTDOWN_DELAY": "0",
        # Behind our own packages, for gunicorn alone.
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)]),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(server, port),
            env=CLEAN_ENVIRONMENT | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=log.parent,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _is_up(url))
        yield process.pid, url
    finally:
        kill_all([process.pid, *descendants(process.pid)])
        process.wait()


def _is_up(url: str) -> bool:
    with blocking_client(url) as client, suppress(httpx.TransportError):
        return client.get("/health").is_success
    return False


def _workers(pid: int) -> set[int]:
    # Python's resource tracker is a child that stays.
    return {
        child
        for child in descendants(pid)
        if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
    }


def _are_replaced(pid: int, before: set[int]) -> bool:
    with suppress(FileNotFoundError):
        workers = _workers(pid)
        return len(workers) == WORKERS and not workers & before
    return False


def kept_slow_senders(url: str) -> int:
    """How many of those that do not finish the head of a request are still there after a while."""
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    open_ones = {socket.create_connection(address) for _ in range(SLOW_SENDERS)}
    for connection in open_ones:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    deadline = time.monotonic() + CLOSED_WITHIN_SECONDS
    while open_ones and (remaining := deadline - time.monotonic()) > 0:
        for connection in select.select(open_ones, [], [], remaining)[0]:
            # An answer, such as 408, or the end.
            if not connection.recv(1000):
                connection.close()
                open_ones.remove(connection)
    for connection in open_ones:
        connection.close()
    return len(open_ones)


def test_taskflow_serve_fails_no_request_in_restarts_and_keeps_no_slow_sender(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    found = {}
    for server in SERVERS:
        url = new_database()
        log = tmp_path / f"{server}.log"
        with others_answer(), running(server, url, log) as (pid, base_url):
            with Writers(url, [base_url], count=8) as writers:
                for _ in range(RESTARTS):
                    before = _workers(pid)
                    os.kill(pid, signal.SIGHUP)
                    writers.wait_until(
                        partial(_are_replaced, pid, before), seconds=RESTARTED_WITHIN_SECONDS
                    )
                    writers.wait_for_writes(50)
            writers.verify()
            failed, kept = len(failures(writers)), kept_slow_senders(base_url)
            found[server] = (failed, kept)
            print(  # noqa: T201 - the figures are what the run is for
                f"{server}: {RESTARTS} restarts failed {failed} of {len(writers.answers)} requests;"
                f" {kept} of {SLOW_SENDERS} slow senders were kept"
            )
    assert found["taskflow serve"] == (0, 0)
