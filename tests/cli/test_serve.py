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

from app.db.embedded import throwaway_data_dir
from tests.conftest import NewDatabase
from tests.support import (
    CLEAN_ENVIRONMENT,
    READY_WITHIN_SECONDS,
    SECRET_KEY,
    TASKFLOW,
    RunningService,
    blocking_client,
    running_service,
)

Start = Callable[[], RunningService]
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


@looks_into_proc
def test_after_a_stop_by_signal_nothing_runs_and_the_next_start_has_the_tasks(
    start: Start, data_dir: Path
) -> None:
    token = ""
    for number in (signal.SIGTERM, signal.SIGINT):
        service = start()
        with log_in(service) as client:
            client.post("/api/v1/tasks", json={"title": f"Survive {number.name}"})
            token = client.headers["Authorization"]
        assert postgres_processes(data_dir)
        assert service.stop(number) == 0, service.output()
        assert postgres_processes(data_dir) == []
        assert "Traceback" not in service.output()

    again = start()
    assert titles(again) == {"Survive SIGTERM", "Survive SIGINT"}
    # The secret is kept too: the login of before still works.
    with blocking_client(again.base_url, {"Authorization": token}) as client:
        assert client.get("/api/v1/users/me").status_code == 200


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

    assert titles(start()) == {str(number) for number in range(10)}


def test_a_second_service_shares_the_database_of_the_first_and_says_so(start: Start) -> None:
    first, second = start(), start()

    with log_in(first) as client:
        client.post("/api/v1/tasks", json={"title": "Shared"})
    assert titles(second) == {"Shared"}
    assert f"process {first.process.pid} runs" in second.output()


def test_a_taken_port_is_told_in_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = CLEAN_ENVIRONMENT | {
            "PORT": str(taken.getsockname()[1]),
            "DATA_DIR": str(tmp_path),
        }
        done = subprocess.run(
            [TASKFLOW, "serve"], env=environment, capture_output=True, text=True, check=False
        )

    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1:" in done.stderr
    assert "PORT=9000" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_workers_serve_one_port(new_database: NewDatabase) -> None:
    with running_service(new_database(), WORKERS="2") as service:
        # A connection of its own for each, so that either worker may take it.
        headers = {"Connection": "close"}
        with blocking_client(service.base_url, headers) as client:
            statuses = [client.get("/health").status_code for _ in range(10)]

    assert statuses == [200] * 10
    started = {line for line in service.output().splitlines() if "Started server process" in line}
    assert len(started) == 2


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

    del environment["SECRET_KEY"]
    refused = subprocess.run(
        [python, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "SECRET_KEY is required in production" in refused.stderr
    assert "Traceback" not in refused.stderr
