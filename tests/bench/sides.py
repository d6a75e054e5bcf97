"""The three services that are compared, each started as its operators would start it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.db.programs import apart
from tests.bench.data import SECRET_KEY
from tests.sdk.tools import ROOT, TOOLS, install_locked
from tests.support import blocking_client

HERE = Path(__file__).parent
PEER_ENVIRONMENT = TOOLS / "bench-peer"
PEER_LOCK = HERE / "peer" / "requirements.txt"
# As documented: one process per core.
WORKERS = os.cpu_count() or 1
PEER_WORKERS = 2 * WORKERS
START_SECONDS = 60
STOP_SECONDS = 15
SIDES = ("taskflow", "peer", "floor")


@dataclass(frozen=True)
class Side:
    """A service that runs."""

    name: str
    port: int
    pid: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"http://{self.host}"


class SideFailed(Exception):
    """A service did not start; says what it printed."""


def _command(name: str, port: int) -> list[str | Path]:
    programs = Path(sys.executable).parent
    if name == "taskflow":
        return [programs / "taskflow", "serve"]
    if name == "peer":
        return [
            PEER_ENVIRONMENT / "bin" / "gunicorn",
            f"--workers={PEER_WORKERS}",
            f"--bind=127.0.0.1:{port}",
            f"--chdir={HERE / 'peer'}",
            "--no-control-socket",
            "app:app",
        ]
    return [
        programs / "uvicorn",
        f"--port={port}",
        f"--workers={WORKERS}",
        "--http=httptools",
        "--loop=uvloop",
        "--no-access-log",
        "--log-level=warning",
        "tests.bench.floor.app:app",
    ]


@contextmanager
def running(name: str, database_url: str, folder: Path, **environment: str) -> Iterator[Side]:
    """Start a side with its log in `folder`, and stop it at the end. Raises `SideFailed`."""
    if name == "peer":
        install_locked(PEER_ENVIRONMENT, PEER_LOCK)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT) if name == "floor" else "",
        "ENVIRONMENT": "production",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        "PORT": str(port),
        "WORKERS": str(WORKERS),
        # On, and above any load.
        "RATE_LIMIT_API": "1000000/second",
        **environment,
    }
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(name, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            **(apart(None, signal.SIGTERM) | {"env": settings}),
        )
    side = Side(name, port, process.pid)
    try:
        _wait_until_ready(side, process, log)
        yield side
    finally:
        _stop(process)


def _wait_until_ready(side: Side, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with blocking_client(side.base_url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get("/health").status_code == httpx.codes.OK:
                    return
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    raise SideFailed(f"{side.name} did not start and said:\n{log.read_text()[-4000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # It leads a session of its own, so its workers go with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
