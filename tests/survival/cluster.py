"""PostgreSQL servers of the tests' own, which can be stopped, killed, frozen and failed over.

They are durable (fsync is on), keep their port over restarts, and run as `nobody` for root.
"""

import asyncio
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from app.db.embedded import throwaway_data_dir
from app.db.migrations import migrate
from app.db.programs import ROOTS_FOLDER, apart, find_installation, run
from tests.db.support import eventually, run_sql

STOP_WITHIN_SECONDS = 30
# What a standby is called in `synchronous_standby_names`.
STANDBY = "standby"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "max_connections": "100",
    "max_wal_size": "256MB",
}


def free_port() -> int:
    """A port that nothing listens on, outside of those that the system gives to clients.

    While a server is down, a client that keeps on calling one of these could meet itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Cluster:
    """One server on a folder and a port of its own. `cluster()` and `standby_of()` make them."""

    def __init__(self, folder: Path, password: str) -> None:
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if user is not None:
            ROOTS_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            os.chown(folder, user.pw_uid, user.pw_gid)
        self.installation = find_installation(user, lambda _: None)
        self.port = free_port()
        self.password = password
        self.settings = dict(SETTINGS)
        """What the server is started with; changes hold from the next start."""
        self.log = folder / "postgres.log"
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of("taskflow")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs, `pg_dump` for example, as the server's user."""
        return run([str(self.installation.folder / program), *arguments], self.installation.user)

    def create(self) -> None:
        """Make the server's files, start it, and make the migrated database `taskflow`."""
        password = self._data.with_name("password")
        password.write_text(self.password)
        password.chmod(0o644)
        self.run(
            *("initdb", "-D", str(self._data), "--username=postgres", "--no-sync"),
            *("--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"),
            *("--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        )
        self.start()
        run_sql(self.url_of("postgres"), "CREATE DATABASE taskflow")
        # Alembic needs a thread without an event loop.
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(migrate, self.url).result()

    def copy_of(self, primary: "Cluster") -> None:
        """Become a standby of `primary`, whatever it was before, and start as such."""
        shutil.rmtree(self._data, ignore_errors=True)
        source = f"host=127.0.0.1 port={primary.port} user=postgres password={primary.password}"
        self.run(
            *("pg_basebackup", "-D", str(self._data), "-d", source),
            *("--checkpoint=fast", "--wal-method=stream", "--no-sync"),
        )
        # What the primary was told meanwhile is not for this one.
        (self._data / "postgresql.auto.conf").write_text("")
        (self._data / "standby.signal").touch()
        if self.installation.user is not None:
            os.chown(self._data / "standby.signal", self.installation.user.pw_uid, -1)
        self.settings["primary_conninfo"] = f"{source} application_name={STANDBY}"
        # A walreceiver that has lost its primary looks for it again after five seconds else.
        self.settings["wal_retrieve_retry_interval"] = "200ms"
        self.start()

    def start(self) -> None:
        """Start the server, and return once it accepts connections."""
        command = [str(self.installation.folder / "postgres"), "-D", str(self._data)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as output:
            process = self._process = subprocess.Popen(
                [*command, "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **apart(self.installation.user, signal.SIGINT),
            )
        eventually(lambda: process.poll() is not None or self._is_ready())
        assert process.poll() is None, self.log.read_text()

    def _is_ready(self) -> bool:
        file = self._data / "postmaster.pid"
        lines = file.read_text().splitlines() if file.exists() else []
        # The first line of eight is the process id, the last the state.
        return lines[:1] == [str(self.pid)] and [line.strip() for line in lines[7:]] == ["ready"]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it fast: sessions are ended, and what was committed is on disk."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Let it crash: SIGKILL for the server and all its processes, at once."""
        kill_all(self.processes())
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self.is_running:
            self._process.send_signal(number)
        self._process.wait(STOP_WITHIN_SECONDS)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it hang: connections stay, new ones are accepted by the kernel, nobody answers."""
        # The server first, lest it has new children.
        for pid in (self.pid, *self.processes()):
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (*self.processes(), self.pid):
            _signal(pid, signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby the primary; returns once it takes writes."""
        assert self.sql("SELECT pg_promote(true, 30)")

    def processes(self) -> list[int]:
        """The server's process and its children's."""
        return [self.pid, *descendants(self.pid)]

    def sql(self, statement: str) -> Any:
        """Run a statement and return the first value; not from within an event loop."""
        return run_sql(self.url, statement)

    @contextmanager
    def session(self) -> Iterator[Callable[[str], Any]]:
        """A session of its own, to hold locks for example; runs statements as `sql` does."""
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            connection = runner.run(asyncpg.connect(self.url))
            try:
                yield lambda statement: runner.run(connection.fetchval(statement))
            finally:
                connection.terminate()

    def wait_for_standby(self) -> None:
        """Let no commit be acknowledged from now on that the standby has not got."""
        self.reload(synchronous_standby_names=STANDBY)
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        eventually(lambda: self.sql(synchronous) == 1)

    def reload(self, **settings: str) -> None:
        """Change settings of the running server that need no restart."""
        for name, value in settings.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")


def _process_table() -> list[tuple[int, int, str]]:
    """Process id, parent's process id and state of all processes."""
    columns = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    rows = subprocess.check_output(columns, text=True).splitlines()
    return [(int(pid), int(parent), state) for pid, parent, state in map(str.split, rows)]


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    children = [child for child, parent, _ in _process_table() if parent == pid]
    return children + [further for child in children for further in descendants(child)]


def kill_all(pids: Sequence[int]) -> None:
    """SIGKILL at once, and wait until none of them does anything any more."""
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    eventually(lambda: not _alive(pids))


def _alive(pids: Sequence[int]) -> set[int]:
    return {pid for pid, _, state in _process_table() if not state.startswith("Z")} & set(pids)


def _signal(pid: int, number: signal.Signals) -> None:
    # A session may just have ended.
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def cluster(**settings: str) -> Iterator[Cluster]:
    """A running primary with a migrated database; its settings besides those of `SETTINGS`."""
    with throwaway_data_dir() as folder:
        primary = Cluster(folder, secrets.token_hex(12))
        primary.settings.update(settings)
        with _ended_after(primary):
            primary.create()
            yield primary


@contextmanager
def standby_of(primary: Cluster, *, synchronous: bool = True) -> Iterator[Cluster]:
    """A running standby, which confirms every commit of the primary from then on."""
    with throwaway_data_dir() as folder:
        standby = Cluster(folder, primary.password)
        with _ended_after(standby):
            standby.copy_of(primary)
            if synchronous:
                primary.wait_for_standby()
            yield standby


@contextmanager
def _ended_after(server: Cluster) -> Iterator[None]:
    try:
        yield
    finally:
        if server.is_running:
            server.kill()
