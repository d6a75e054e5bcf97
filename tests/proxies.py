"""What stands between clients, nodes and the database, run with the files of `app/deployment`."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy.engine import make_url

import app
from app.db.programs import apart
from tests.contract.conformance import others_answer
from tests.survival.cluster import free_port

FOLDER = Path(app.__file__).parent / "deployment"
START_SECONDS = 20
# Debian puts servers where an ordinary user's PATH does not look.
PROGRAMS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


def changed(name: str, changes: dict[str, str]) -> str:
    """The file of `app/deployment` with other addresses; each of them must stand in it."""
    text = (FOLDER / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} does not have {old!r}"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running(
    command: list[str], port: int, files: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that listens on `port`, started in a folder with these files as `nobody`."""
    program = shutil.which(command[0], path=PROGRAMS)
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        if user is not None:
            for path in (Path(folder), *Path(folder).iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen(
                [program, *command[1:]],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **apart(user, signal.SIGKILL),
            )
            try:
                deadline = time.monotonic() + START_SECONDS
                while not _listens(port):
                    assert process.poll() is None, (Path(folder) / "log").read_text()
                    assert time.monotonic() < deadline, (Path(folder) / "log").read_text()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.02)
                yield process
            finally:
                # PgBouncer takes SIGTERM for "at once"; the others have nothing left to do.
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2)
                process.kill()
                process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def pgbouncer(
    server_url: str, changes: dict[str, str] | None = None, *, port: int = 0
) -> Iterator[str]:
    """PgBouncer before all databases of a server; yields the URL of the one in `server_url`."""
    server = make_url(server_url)
    port = port or free_port()
    database = f"* = host={server.host} port={server.port} "
    addresses = {
        "taskflow = host=database port=5432 dbname=taskflow ": database,
        "listen_addr = *": "listen_addr = 127.0.0.1",
        "listen_port = 6432": f"listen_port = {port}\nunix_socket_dir =",
        "/etc/pgbouncer/userlist.txt": "userlist.txt",
    }
    files = {
        "pgbouncer.ini": changed("pgbouncer.ini", addresses | (changes or {})),
        "userlist.txt": f'"{server.username}" "{server.password}"\n',
    }
    with running(["pgbouncer", "pgbouncer.ini"], port, files):
        yield server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


def _nodes(ports: Sequence[int]) -> dict[str, str]:
    return {f"node{number}:8000": f"127.0.0.1:{port}" for number, port in enumerate(ports, start=1)}


@contextlib.contextmanager
def haproxy(ports: Sequence[int]) -> Iterator[str]:
    """HAProxy before two nodes on these ports; yields its base URL."""
    port = free_port()
    file = changed("haproxy.cfg", _nodes(ports) | {"bind :8080": f"bind 127.0.0.1:{port}"})
    command = ["haproxy", "-db", "-f", "haproxy.cfg"]
    with running(command, port, {"haproxy.cfg": file}), others_answer():
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def nginx(ports: Sequence[int]) -> Iterator[str]:
    """Nginx before two nodes on these ports; yields its base URL."""
    port = free_port()
    # Debian's has folders that only root may write to.
    scratch = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"    {name}_temp_path {name};\n" for name in scratch)
    here = {"listen 8080": f"listen 127.0.0.1:{port}", "http {\n": "http {\n" + folders}
    file = changed("nginx.conf", _nodes(ports) | here)
    options = "daemon off; pid nginx.pid; error_log stderr;"
    command = ["nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr", "-g", options]
    with running(command, port, {"nginx.conf": file}), others_answer():
        yield f"http://127.0.0.1:{port}"


class Redis:
    """A real Redis server on a free port of loopback, with nothing on disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://:redis-password@127.0.0.1:{self.port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                shutil.which("redis-server") or "redis-server",
                *("--port", str(self.port)),
                *("--bind", "127.0.0.1"),
                *("--requirepass", "redis-password"),
                *("--save", ""),
                *("--dir", str(self._folder)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
        raise AssertionError("Redis did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
