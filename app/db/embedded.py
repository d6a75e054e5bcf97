"""The development database: a PostgreSQL that starts and stops with the process that needs it.

A data folder holds `data` (PostgreSQL's own files), `password`, `postgres.log` (the start before it
in `postgres.log.1`) and `lock`. Who holds the lock runs the server; everybody else shares it.
For Linux and macOS: the lock is flock(2).
"""

import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from app.core.processes import is_alive
from app.db import programs
from app.db.programs import (
    Account,
    EmbeddedDatabaseError,
    Installation,
    Notify,
    apart,
    find_installation,
    last_lines,
    run,
)

BUILTIN_LOCALE_MAJOR = 17  # Before it, only the C library knows C.UTF-8.
START_LIMIT = 60.0  # Seconds, recovery after a crash included.
RETRY_LIMIT = 10.0  # Seconds, for what is transient.
STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))  # Seconds each.
POLL = 0.02  # Seconds.
THROWAWAY_ROOM = 512 * 1024**2  # Bytes that must be free in memory.
ABANDONED_AFTER = 60.0  # Seconds; a younger folder may be about to be locked by its maker.

# Somebody else was faster to take the port; children of a killed server have yet to end.
_TRANSIENT = ("could not create any TCP/IP sockets", "is still in use")
_THROWAWAY_PREFIX = "taskflow-throwaway-"
_PROC = Path("/proc")  # Where there is none, as on macOS, ps tells.

_ALWAYS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
# Little WAL means little disk space, and a short recovery after a crash.
_DURABLE = _ALWAYS | {"fsync": "on", "max_wal_size": "512MB"}
_THROWAWAY = _ALWAYS | {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "256MB",
    # Autovacuum holds up the cloning of databases and changes plans halfway: short runs never meet
    # it, long ones (benchmarks, endurance) still get their statistics.
    "autovacuum_naptime": "5min",
}


@dataclass(frozen=True)
class EmbeddedDatabase:
    """A running database; `shared_with` is its owner's process id, None if it is ours."""

    url: str = field(repr=False)
    data_dir: Path
    shared_with: int | None


@contextmanager
def throwaway_data_dir() -> Iterator[Path]:
    """Yield a fresh folder for a throw-away database, in memory if there is room; remove it after.

    What killed runs left behind in the same place goes too, their servers stopped.
    """
    memory = Path("/dev/shm")  # noqa: S108 - A folder of our own is made in it.
    in_memory = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= THROWAWAY_ROOM
    parent = memory if in_memory else Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    with tempfile.TemporaryDirectory(
        prefix=_THROWAWAY_PREFIX, dir=parent, ignore_cleanup_errors=True
    ) as folder:
        # The lock tells other runs that this folder is not abandoned.
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield Path(folder)
        finally:
            os.close(descriptor)


@contextmanager
def embedded_database(
    data_dir: Path, *, throwaway: bool = False, notify: Notify = lambda _message: None
) -> Iterator[EmbeddedDatabase]:
    """Start the PostgreSQL of `data_dir`, made at the first start, or share the one that runs.

    What was started here stops at exit. If this process is killed, Linux stops the server at once,
    provided that this ran on the main thread (the kernel watches the thread that started it);
    elsewhere the next start does. A shared server goes when its owner goes. `throwaway` trades the
    safety of what was committed before a crash for speed. `notify` receives messages of progress.

    Raises EmbeddedDatabaseError if there is no database to be had, after minutes at most.
    """
    data_dir = data_dir.resolve()
    with ExitStack() as cleanup:
        with _errors_in_words(data_dir):
            user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
            _prepare_folder(data_dir, user)
            # Python opens files close-on-exec: the server can't inherit the lock and outlive us.
            lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            cleanup.callback(os.close, lock)
            owner, port = _take_lock(lock, data_dir, notify)
            if owner is None:
                installation = find_installation(user, notify)
                _prepare_cluster(data_dir, installation, notify, throwaway=throwaway)
                process, port = _start(data_dir, installation, throwaway=throwaway)
                cleanup.callback(_stop, process)
                # Before the server stops: whoever comes now waits for the lock, and starts afresh.
                cleanup.callback(os.ftruncate, lock, 0)
                os.pwrite(lock, f"{os.getpid()} {port}\n".encode(), 0)
            password = quote((data_dir / "password").read_text(), safe="")
            url = f"postgresql://postgres:{password}@127.0.0.1:{port}/taskflow"
        yield EmbeddedDatabase(url, data_dir, shared_with=owner)


@contextmanager
def _errors_in_words(data_dir: Path) -> Iterator[None]:
    try:
        yield
    # A KeyError is the password database's for "no such user".
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        raise EmbeddedDatabaseError(
            f"The development database in {data_dir} can't be used: {error}. Remove the cause"
            f"{', start taskflow as an ordinary user' if os.geteuid() == 0 else ''}, "
            "or set DATABASE_URL to a PostgreSQL of your own."
        ) from error


def _prepare_folder(data_dir: Path, user: Account) -> None:
    if user is None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
        return
    programs.ROOTS_FOLDER.mkdir(parents=True, exist_ok=True)
    programs.ROOTS_FOLDER.chmod(0o755)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    closed = [folder for folder in data_dir.parents if not folder.stat().st_mode & 0o001]
    if closed or data_dir.stat().st_uid != 0:
        raise EmbeddedDatabaseError(
            f"Started by root, PostgreSQL runs as the user “nobody”, but {data_dir} "
            + (f"is out of its reach: {closed[0]} is closed." if closed else "isn't root's folder.")
            + " Choose another folder, start taskflow as an ordinary user, or set DATABASE_URL."
        )
    # The server may pass through, but not replace the lock and the password, which root trusts.
    os.chown(data_dir, 0, user.pw_gid)
    data_dir.chmod(0o710)


def _take_lock(lock: int, data_dir: Path, notify: Notify) -> tuple[int | None, int]:
    """Return (None, 0) once the lock is ours, else the process that owns the server and its port.

    The owner writes its process id into the lock, and the port behind it when the server is ready.
    """
    deadline = time.monotonic() + START_LIMIT
    told = False
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return None, 0
        line = os.pread(lock, 100, 0).decode()
        ready = re.fullmatch(r"(\d+) (\d+)\n", line)
        # A dead owner's line is one that the new owner is about to overwrite.
        if ready and is_alive(int(ready[1])):
            return int(ready[1]), int(ready[2])
        if time.monotonic() > deadline:
            pid = line.partition(" ")[0].strip()
            raise EmbeddedDatabaseError(
                f"Process {pid} holds the development database in {data_dir}, but it isn't ready "
                f"after {START_LIMIT:.0f} seconds. End that process, or look into "
                f"{data_dir / 'postgres.log'}."
            )
        if not told:
            notify("Waiting for the PostgreSQL that another process is starting …")
            told = True
        time.sleep(POLL)


def _prepare_cluster(
    data_dir: Path, installation: Installation, notify: Notify, *, throwaway: bool
) -> None:
    """Leave behind a `data` that `installation` can be started on."""
    cluster = data_dir / "data"
    _stop_leftover(cluster, notify)
    if not cluster.exists():
        notify(f"Creating the development database in {data_dir} …")
        _create_cluster(data_dir, installation, throwaway=throwaway)
    major = (cluster / "PG_VERSION").read_text().strip()
    if major != str(installation.major):
        raise EmbeddedDatabaseError(
            f"The database in {data_dir} was made by PostgreSQL {major}, but PostgreSQL "
            f"{installation.version} was found ({installation.folder}). Install PostgreSQL "
            f"{major}, or move the database's folder away to start with an empty one, or set "
            "DATABASE_URL."
        )
    notify(f"Starting PostgreSQL {installation.version} …")


def _create_cluster(data_dir: Path, installation: Installation, *, throwaway: bool) -> None:
    """Make `data` with an empty database `taskflow` in it, whole or not at all."""
    for remains in data_dir.glob("data.new-*"):
        shutil.rmtree(remains, ignore_errors=True)
    # The name is new each time: the initdb of a killed run may still be writing to the old one.
    cluster = Path(tempfile.mkdtemp(prefix="data.new-", dir=data_dir))
    password = data_dir / "password"
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))
    if installation.user is not None:
        for path in (cluster, password):
            os.chown(path, installation.user.pw_uid, installation.user.pw_gid)
    initdb = [str(installation.folder / "initdb"), "-D", str(cluster), "--username=postgres"]
    initdb += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"]
    # macOS knows C.UTF-8 only since its version 15.
    initdb += (
        ["--locale=C", "--lc-ctype=UTF-8"] if sys.platform == "darwin" else ["--locale=C.UTF-8"]
    )
    if installation.major >= BUILTIN_LOCALE_MAJOR:
        initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # Single-user mode makes a database without a port and a client.
    single = [str(installation.folder / "postgres"), "--single", "-D", str(cluster)]
    single += ["-c", "exit_on_error=on", "-c", f"fsync={'off' if throwaway else 'on'}", "postgres"]
    try:
        run([*initdb, "--no-sync"] if throwaway else initdb, installation.user)
        run(single, installation.user, b"CREATE DATABASE taskflow\n")
    except BaseException:
        shutil.rmtree(cluster, ignore_errors=True)
        raise
    cluster.rename(data_dir / "data")
    if not throwaway:
        # PostgreSQL has saved its own files to disk; the password and the new name are up to us.
        os.sync()


def _start(
    data_dir: Path, installation: Installation, *, throwaway: bool
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server and return it with its port once it accepts connections."""
    log = data_dir / "postgres.log"
    if log.exists():
        log.replace(data_dir / "postgres.log.1")
    log.touch(mode=0o600)
    command = [str(installation.folder / "postgres"), "-D", str(data_dir / "data")]
    for name, value in (_THROWAWAY if throwaway else _DURABLE).items():
        command += ["-c", f"{name}={value}"]
    deadline = time.monotonic() + RETRY_LIMIT
    while True:
        port = _free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - As in run.
                [*command, "-p", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **apart(installation.user, signal.SIGINT),
            )
        try:
            if _is_ready(process, data_dir / "data"):
                return process, port
        except BaseException:
            _stop(process)
            raise
        _stop(process)
        end = last_lines(log.read_text(errors="replace"))
        is_transient = any(words in end for words in _TRANSIENT)
        if not is_transient or time.monotonic() > deadline:
            break
        time.sleep(POLL)
    raise EmbeddedDatabaseError(
        f"PostgreSQL {installation.version} did not start. Its log, {log}, ends with:\n{end}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(process: subprocess.Popen[bytes], cluster: Path) -> bool:
    """Wait until the server accepts connections; False if it ends, or after START_LIMIT."""
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        # The first line of eight is the process id, the last the state.
        lines = _postmaster_file(cluster)
        if lines[:1] == [str(process.pid)] and lines[7:] == ["ready"]:
            return True
        time.sleep(POLL)
    return False


def _postmaster_file(cluster: Path) -> list[str]:
    try:
        text = (cluster / "postmaster.pid").read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]


def _stop(process: subprocess.Popen[bytes]) -> None:
    _end(process.pid, lambda: process.poll() is None)


def _end(pid: int, is_running: Callable[[], bool]) -> None:
    for number, limit in STOP_STEPS:
        deadline = time.monotonic() + limit
        if is_running():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        while is_running() and time.monotonic() < deadline:
            time.sleep(POLL)


def _stop_leftover(cluster: Path, notify: Notify) -> None:
    """Stop the server that a killed run left behind in `cluster`, and let the next one start."""
    lines = _postmaster_file(cluster)
    pid = int(lines[0]) if lines and lines[0].isdigit() else 0
    if _serves(pid, cluster):
        notify(f"Stopping the PostgreSQL that a killed run left behind (process {pid}) …")
        _end(pid, lambda: _serves(pid, cluster))
        if _serves(pid, cluster):
            raise EmbeddedDatabaseError(
                f"The PostgreSQL that a killed run left behind won't stop. End it: kill -9 {pid}"
            )
    file = cluster / "postmaster.pid"
    if not file.exists() or "postgres" in _command_line(pid):
        return
    notify("Recovering the database: the last run was interrupted …")
    # PostgreSQL refuses to start while the file names a living process of its user, though that may
    # be a stranger or a zombie by now. It makes an exception for its parent, and still looks for
    # living children of the old server. Hence our own number.
    file.unlink()
    if lines:
        with file.open("x") as new:
            new.write("\n".join([str(os.getpid()), *lines[1:], ""]))
            os.fchmod(new.fileno(), 0o644)


def _serves(pid: int, cluster: Path) -> bool:
    """Tell whether the process is a living PostgreSQL whose data folder is `cluster`."""
    command_line = _command_line(pid)
    return "postgres" in command_line and f"-D {cluster} " in command_line


def _command_line(pid: int) -> str:
    """Return the command line of a process, empty if it has ended."""
    if not _PROC.exists():
        ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        return subprocess.run(ps, capture_output=True, text=True, check=False).stdout  # noqa: S603 - Only the number varies.
    with suppress(OSError):
        return os.fsdecode((_PROC / str(pid) / "cmdline").read_bytes()).replace("\0", " ")
    return ""


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_THROWAWAY_PREFIX}*"):
        # What can't be opened, locked or removed is in use, or somebody else's.
        with suppress(OSError, EmbeddedDatabaseError), ExitStack() as cleanup:
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            cleanup.callback(os.close, descriptor)
            state = os.fstat(descriptor)
            if state.st_uid == os.geteuid() and time.time() - state.st_mtime > ABANDONED_AFTER:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop_leftover(folder / "data", lambda _message: None)
                shutil.rmtree(folder)
