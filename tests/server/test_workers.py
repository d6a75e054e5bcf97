"""Workers share the connections of `taskflow serve`; one that takes none is no harm to others."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import uvicorn

from app.server.acceptor import Shares
from app.server.run import SERVER_OPTIONS
from app.server.signals import NOT_READY_SIGNAL
from app.server.supervisor import Worker
from tests.conftest import NewDatabase
from tests.db.support import eventually
from tests.observability.test_workers import started_workers
from tests.support import (
    READY_WITHIN_SECONDS,
    RunningService,
    blocking_client,
    production,
    running_service,
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        sys.platform != "linux", reason="looks for connections in /proc, which Linux has"
    ),
]
REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def established(port: int) -> set[str]:
    """The inodes of the connections to this port that have been accepted."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"} - {"0"}


def files(pid: int) -> list[str]:
    """What the process has open, but for what it closes meanwhile."""
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(file.readlink()))
    return found


def connections(service: RunningService, pid: int) -> int:
    return len({f"socket:[{inode}]" for inode in established(service.port)} & {*files(pid)})


def workers_of(service: RunningService) -> list[int]:
    """The processes that serve or will, also those that have said nothing yet."""
    supervisor = service.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@contextmanager
def connected(service: RunningService, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that were opened in a row, and say nothing."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            for _ in range(count)
        ]


def answers(connection: socket.socket) -> bool:
    connection.settimeout(5)
    connection.sendall(REQUEST)
    return connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def assert_each_gets_its_share(service: RunningService, workers: list[int]) -> None:
    def counts() -> list[int]:
        return [connections(service, pid) for pid in workers]

    with ExitStack() as stack:

        def has_reached_all() -> bool:
            stack.enter_context(connected(service, 1))
            return all(counts())

        # A worker that still starts takes none.
        eventually(has_reached_all)
        before = sum(counts())
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        # More than a worker takes in a row: one could be left with few.
        stack.enter_context(connected(service, 40))
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: sum(counts()) >= before + 40)
        assert max(counts()) - min(counts()) <= 8, counts()


def test_connections_that_come_together_are_spread_evenly_over_workers(
    new_database: NewDatabase,
) -> None:
    with running_service(new_database(), WORKERS="2") as service:
        first, second = started_workers(service, 2)
        assert_each_gets_its_share(service, [first, second])

        # What it had counts no more, and not for the one that takes its place.
        os.kill(first, signal.SIGKILL)
        *_, third = started_workers(service, 3)
        assert_each_gets_its_share(service, [second, third])

        service.process.send_signal(signal.SIGHUP)
        *_, fourth, fifth = started_workers(service, 5)
        eventually(lambda: service.output().count("Finished server process") == 2)
        assert_each_gets_its_share(service, [fourth, fifth])


def test_a_worker_is_due_while_none_has_much_fewer_and_those_that_left_count_no_more() -> None:
    shares = Shares()
    for seat, count in enumerate([100, 94, 0]):
        shares.tell(seat, count)
    assert [shares.is_due(seat) for seat in range(3)] == [False, False, True]
    shares.leave(2)
    assert [shares.is_due(seat) for seat in range(2)] == [True, True]
    shares.tell(1, 93)
    assert [shares.is_due(seat) for seat in range(2)] == [False, True]


def test_what_a_stopped_worker_should_take_is_taken_by_another(new_database: NewDatabase) -> None:
    with running_service(new_database(), WORKERS="2") as service:
        stopped, running = started_workers(service, 2)
        os.kill(stopped, signal.SIGSTOP)
        try:
            with connected(service, 32) as opened:
                assert all(answers(connection) for connection in opened)
                assert connections(service, running) == 32
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_who_has_connected_before_the_end_is_answered(new_database: NewDatabase) -> None:
    with running_service(new_database()) as service:
        service.process.send_signal(signal.SIGSTOP)
        # More than are taken in a row.
        with connected(service, 100) as opened:
            for connection in opened:
                connection.sendall(REQUEST)
            # By then it would look whether it shall end, which it does ten times a second.
            with pytest.raises(subprocess.TimeoutExpired):
                service.process.wait(0.2)
            service.process.send_signal(signal.SIGTERM)
            service.process.send_signal(signal.SIGCONT)
            for connection in opened:
                connection.settimeout(5)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert service.process.wait(READY_WITHIN_SECONDS) == 0, service.output()


def test_out_of_file_descriptors_a_service_serves_who_is_there_and_later_those_who_wait(
    new_database: NewDatabase,
) -> None:
    with running_service(new_database()) as service, blocking_client(service.base_url) as client:
        assert client.get("/health/ready").status_code == 200
        pid = service.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        few = max(int(file.name) for file in Path(f"/proc/{pid}/fd").iterdir()) + 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, usual[1]))
        with connected(service, 20) as opened:
            eventually(lambda: "cannot accept connections" in service.output())
            assert connections(service, pid) < 20
            for _ in range(100):
                assert client.get("/health").status_code == 200
            # It tries again twice in a second, and not whenever it has nothing else to do.
            assert service.output().count("cannot accept connections") < 20
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
            assert all(answers(connection) for connection in opened)
        assert "Traceback" not in service.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_still_start_end_in_order(
    new_database: NewDatabase, tmp_path: Path, number: signal.Signals
) -> None:
    environment = production(new_database()) | {"WORKERS": "2"}
    service = RunningService(environment, tmp_path / "log")
    try:
        eventually(lambda: len(workers_of(service)) == 2)
        # As a terminal does.
        for pid in [*workers_of(service), service.process.pid]:
            os.kill(pid, number)
        assert service.process.wait(READY_WITHIN_SECONDS) == 0, service.output()
    finally:
        service.process.kill()
        service.process.wait()
    assert service.output().count("Finished server process") == 2, service.output()
    assert "Traceback" not in service.output()


def test_a_worker_that_is_told_to_end_while_it_starts_ends_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in production("postgresql://nobody@127.0.0.1:1/none").items():
        monkeypatch.setenv(name, value)
    config = uvicorn.Config("app.main:app", port=0, workers=2, **SERVER_OPTIONS)
    with config.bind_socket() as listening:
        worker = Worker(config, [listening], Shares(), seat=0, signals=[])
        worker.start()
        assert worker.pid is not None
        os.kill(worker.pid, NOT_READY_SIGNAL)
        worker.terminate()
        worker.process.join(READY_WITHIN_SECONDS)
        assert worker.exitcode == 0
