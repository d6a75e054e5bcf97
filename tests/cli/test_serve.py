"""`taskflow serve`: the database that comes along, signals, and what stands in the way."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import main
from app.db.embedded import embedded_database, throwaway_data_dir
from app.db.migrations import migrate
from tests.cli.support import taskflow
from tests.conftest import NewDatabase
from tests.db.support import eventually, run_sql
from tests.support import (
    CLEAN_ENVIRONMENT,
    READY_WITHIN_SECONDS,
    SECRET_KEY,
    TASKFLOW,
    RunningService,
    blocking_client,
    production,
)

Start = Callable[[], RunningService]
pytestmark = pytest.mark.long
looks_into_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="looks for processes in /proc, which Linux has"
)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that the development database may use, also when the tests run as root."""
    with throwaway_data_dir() as folder:
        yield folder


@pytest.fixture
def start(data_dir: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts development services that share one data folder; kills what is left of them."""
    services: list[RunningService] = []

    def start_one() -> RunningService:
        log = tmp_path / f"log-{len(services)}"
        services.append(RunningService({"DATA_DIR": str(data_dir)}, log))
        services[-1].wait_until_ready()
        return services[-1]

    yield start_one
    for service in services:
        service.stop(signal.SIGKILL)


def postgres_processes(data_dir: Path) -> list[int]:
    """The servers that run on this data folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            if b"-D" in command and bytes(data_dir.resolve() / "data") in command:
                found.append(int(process.name))
    return found


@contextmanager
def log_in(service: RunningService) -> Iterator[httpx.Client]:
    """A client with an account of its own, registered if it is not there yet."""
    form = {"grant_type": "password", "username": "ada", "password": "secret-password"}
    with blocking_client(service.base_url) as client:
        client.post(
            "/api/v1/users",
            json={"username": "ada", "email": "ada@example.com", "password": "secret-password"},
        )
        token = client.post("/api/v1/auth/token", data=form).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def titles(service: RunningService) -> set[str]:
    with log_in(service) as client:
        tasks: list[dict[str, Any]] = client.get("/api/v1/tasks").json()["data"]["tasks"]
    return {task["title"] for task in tasks}


def titles_on_disk(data_dir: Path) -> set[str]:
    """What the database holds once it is started again, as each service starts it."""
    with embedded_database(data_dir) as database:
        assert database.shared_with is None
        return set(run_sql(database.url, "SELECT array_agg(title) FROM tasks"))


@looks_into_proc
def test_after_a_stop_by_signal_nothing_runs_and_the_next_start_has_the_tasks(
    start: Start, data_dir: Path
) -> None:
    def stop(service: RunningService, number: signal.Signals) -> None:
        assert postgres_processes(data_dir)
        assert service.stop(number) == 0, service.output()
        assert postgres_processes(data_dir) == []
        assert "Traceback" not in service.output()

    service = start()
    with log_in(service) as client:
        client.post("/api/v1/tasks", json={"title": "Survive SIGTERM"})
        login = {"Authorization": client.headers["Authorization"]}
    stop(service, signal.SIGTERM)

    again = start()
    assert titles(again) == {"Survive SIGTERM"}
    # The secret is kept too: the login of before still works.
    with blocking_client(again.base_url, login) as client:
        assert client.post("/api/v1/tasks", json={"title": "Survive SIGINT"}).status_code == 201
    stop(again, signal.SIGINT)

    assert titles_on_disk(data_dir) == {"Survive SIGTERM", "Survive SIGINT"}


@looks_into_proc
def test_after_a_kill_nothing_acknowledged_is_lost_and_no_postgres_is_left(
    start: Start, data_dir: Path
) -> None:
    service = start()
    with log_in(service) as client:
        for number in range(10):
            response = client.post("/api/v1/tasks", json={"title": str(number)})
            assert response.status_code == 201
    (postgres,) = postgres_processes(data_dir)
    watch = os.pidfd_open(postgres)
    service.stop(signal.SIGKILL)
    # Readable once the process has ended.
    assert select.select([watch], [], [], READY_WITHIN_SECONDS)[0]
    os.close(watch)

    assert titles_on_disk(data_dir) == {str(number) for number in range(10)}


def test_a_second_service_shares_the_database_of_the_first_and_says_so(
    start: Start, data_dir: Path
) -> None:
    # The first one runs in this process.
    with embedded_database(data_dir) as database:
        migrate(database.url)
        second = start()
        with log_in(second) as client:
            client.post("/api/v1/tasks", json={"title": "Shared"})
        assert second.stop() == 0, second.output()
        # The database is the first one's, and goes on.
        assert run_sql(database.url, "SELECT array_agg(title) FROM tasks") == ["Shared"]

    assert f"process {os.getpid()} runs" in second.output()


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "[::1]"),
    ],
)
def test_a_taken_port_is_told_in_words(
    tmp_path: Path, family: socket.AddressFamily, host: str, shown: str
) -> None:
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with taken:
        done = taskflow(
            "serve",
            ENVIRONMENT="development",
            HOST=host,
            PORT=str(taken.getsockname()[1]),
            DATA_DIR=str(tmp_path),
        )

    assert done.returncode == 1
    assert f"cannot listen on {shown}:" in done.stderr
    assert "PORT=9000" in done.stderr
    assert "Traceback" not in done.stderr


def test_any_asgi_server_can_load_the_application(new_database: NewDatabase) -> None:
    environment = CLEAN_ENVIRONMENT | {
        "ENVIRONMENT": "production",
        "DATABASE_URL": new_database(),
        "SECRET_KEY": SECRET_KEY,
    }
    program = "from app.main import app; print(type(app).__name__, app.title)"
    python = TASKFLOW.with_name("python")
    done = subprocess.run(
        [python, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "FastAPI taskflow\n"


def test_without_its_settings_no_server_can_load_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("DATABASE_URL", "postgresql://unused/unused")
    with pytest.raises(SystemExit, match="SECRET_KEY is required in production"):
        main.app  # noqa: B018 - what servers do


def test_what_workers_would_find_wrong_is_found_before_they_start(tmp_path: Path) -> None:
    wrong = {"WORKERS": "2", "OTEL_TRACES_EXPORTER": "zipkin"}
    service = RunningService(production("postgresql://unused/unused") | wrong, tmp_path / "log")
    try:
        assert service.process.wait(READY_WITHIN_SECONDS) == 1, service.output()
        assert service.output().count("OTEL_TRACES_EXPORTER must be otlp, console or none") == 1
    finally:
        service.process.kill()
        service.process.wait()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to a device of Linux")
def test_a_log_that_takes_no_line_fails_no_request(new_database: NewDatabase) -> None:
    service = RunningService(production(new_database()), Path("/dev/full"))
    try:
        service.wait_until_ready()
        with log_in(service) as client:
            assert client.post("/api/v1/tasks", json={"title": "Stored"}).status_code == 201
            assert client.get("/api/v1/tasks").json()["data"]["total"] == 1
    finally:
        service.process.kill()
        service.process.wait()


def test_an_address_that_is_not_ours_is_told_in_words(tmp_path: Path) -> None:
    done = taskflow("serve", ENVIRONMENT="development", HOST="192.0.2.1", DATA_DIR=str(tmp_path))

    assert done.returncode == 1
    assert "cannot listen on 192.0.2.1:" in done.stderr
    assert "Check HOST" in done.stderr


def test_of_two_that_start_at_once_on_one_port_the_slower_says_so_and_ends(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    with socket.socket() as faster:
        faster.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # While nobody listens both may have the address.
        faster.bind(("127.0.0.1", 0))
        port = faster.getsockname()[1]
        environment = production(new_database()) | {"WORKERS": "2"}
        slower = RunningService(environment, tmp_path / "log", port=port)
        try:
            # Its workers have yet to start.
            eventually(lambda: "Uvicorn running on" in slower.output())
            faster.listen()
            assert slower.process.wait(READY_WITHIN_SECONDS) == 3, slower.output()
        finally:
            slower.process.kill()
            slower.process.wait()
    assert "cannot listen" in slower.output()
    assert "Traceback" not in slower.output()
