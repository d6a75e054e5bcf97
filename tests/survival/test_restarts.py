"""Ends and restarts: readiness fails first, what was begun is finished, nobody is turned away."""

import errno
import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from app.server.run import GRACEFUL_SHUTDOWN_SECONDS
from app.server.supervisor import KILL_AFTER_SECONDS
from tests.conftest import NewDatabase
from tests.db.support import PATIENCE, eventually, run_sql
from tests.observability.test_workers import started_workers
from tests.server.test_workers import workers_of
from tests.support import RunningService, blocking_client, production, running_service
from tests.survival.test_slow_and_vanished_clients import account_on, locked_tasks
from tests.survival.writers import Answer, Writers

pytestmark = pytest.mark.survival

LONG = "60"
KILLED_WITHIN = GRACEFUL_SHUTDOWN_SECONDS + KILL_AFTER_SECONDS + PATIENCE
PATIENT = {"DATABASE_STATEMENT_TIMEOUT": LONG, "DATABASE_LOCK_TIMEOUT": LONG}
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskflow' "
    "AND datname = current_database() AND wait_event_type = 'Lock'"
)


def get(service: RunningService, path: str) -> httpx.Response:
    """Over a new connection, as a load balancer's next request may come."""
    with blocking_client(service.base_url) as client:
        return client.get(path)


def refuses_connections(service: RunningService) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", service.port)) == errno.ECONNREFUSED


def is_ready(service: RunningService) -> bool:
    with suppress(httpx.TransportError):
        return get(service, "/health/ready").status_code == 200
    return False


def code_of_readiness(service: RunningService) -> str:
    code: str = get(service, "/health/ready").json().get("code", "ready")
    return code


@pytest.mark.parametrize("workers", ["1", "2"])
def test_readiness_fails_first_and_everything_is_still_answered_meanwhile(
    new_database: NewDatabase, workers: str
) -> None:
    with running_service(new_database(), WORKERS=workers, SHUTDOWN_DELAY="2") as service:
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: code_of_readiness(service) == "shutting_down")
        # Whichever worker is asked.
        answers = [get(service, "/health/ready") for _ in range(8)]
        others = [get(service, "/health") for _ in range(8)]
        assert service.process.poll() is None
        code = service.process.wait(PATIENCE)

    assert code == 0, service.output()
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
    assert {answer.status_code for answer in others} == {200}
    assert "Traceback" not in service.output()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_write_that_is_under_way_is_finished_and_answered(
    new_database: NewDatabase, workers: str
) -> None:
    url = new_database()
    with (
        running_service(url, **PATIENT, WORKERS=workers) as service,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        account = account_on(service, url)
        headers = {"Authorization": f"Bearer {account.token}"}
        with blocking_client(service.base_url, headers) as client:
            with locked_tasks(url):
                write = elsewhere.submit(client.post, "/api/v1/tasks", json={"title": "Last"})
                eventually(lambda: run_sql(url, WAITING) == 1)
                service.process.send_signal(signal.SIGTERM)
                # The other worker may be there first.
                eventually(lambda: service.output().count("Shutting down") == int(workers))
                eventually(lambda: refuses_connections(service))
                assert not write.done()
            response = write.result(PATIENCE)
        code = service.process.wait(PATIENCE)

    assert response.status_code == 201
    assert response.headers["Connection"] == "close"
    assert run_sql(url, "SELECT array_agg(title) FROM tasks") == ["Last"]
    assert code == 0, service.output()


def test_what_does_not_end_in_time_is_told_to_come_back(new_database: NewDatabase) -> None:
    url = new_database()
    with (
        running_service(url, **PATIENT) as service,
        blocking_client(service.base_url) as client,
        locked_tasks(url),
        ThreadPoolExecutor(1) as elsewhere,
    ):
        client.headers["Authorization"] = f"Bearer {account_on(service, url).token}"
        write = elsewhere.submit(client.post, "/api/v1/tasks", json={"title": "Never"})
        eventually(lambda: run_sql(url, WAITING) == 1)
        service.process.send_signal(signal.SIGTERM)
        response = write.result(PATIENCE)
        assert service.process.wait(PATIENCE) == 0, service.output()
        eventually(lambda: run_sql(url, WAITING) == 0)

    assert response.status_code == 503
    assert response.json()["code"] == "overloaded"
    assert run_sql(url, "SELECT count(*) FROM tasks") == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_further_signals_end_the_delay_and_then_the_wait_for_what_is_under_way(
    new_database: NewDatabase, workers: str
) -> None:
    url = new_database()
    settings = PATIENT | {"SHUTDOWN_DELAY": LONG, "WORKERS": workers}
    with (
        running_service(url, **settings) as service,
        blocking_client(service.base_url) as client,
        locked_tasks(url),
        ThreadPoolExecutor(1) as elsewhere,
    ):
        client.headers["Authorization"] = f"Bearer {account_on(service, url).token}"
        eventually(lambda: service.output().count("startup complete") == int(workers))
        write = elsewhere.submit(client.post, "/api/v1/tasks", json={"title": "Never"})
        eventually(lambda: run_sql(url, WAITING) == 1)
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: code_of_readiness(service) == "shutting_down")
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: service.output().count("Shutting down") == int(workers))
        assert not write.done()
        service.process.send_signal(signal.SIGTERM)
        # It would have eight seconds.
        assert service.process.wait(4) == 0, service.output()
        eventually(write.done)
        assert "Traceback" not in service.output()


def test_signals_that_ask_for_something_else_do_not_hurry(new_database: NewDatabase) -> None:
    url = new_database()
    with (
        running_service(url, **PATIENT, WORKERS="2", SHUTDOWN_DELAY=LONG) as service,
        blocking_client(service.base_url) as client,
        ThreadPoolExecutor(1) as elsewhere,
    ):

        def say_something_else() -> None:
            # A terminal whose size changes sends the second.
            for number in (signal.SIGHUP, signal.SIGWINCH):
                service.process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                service.process.wait(1)

        eventually(lambda: service.output().count("startup complete") == 2)
        client.headers["Authorization"] = f"Bearer {account_on(service, url).token}"
        with locked_tasks(url):
            write = elsewhere.submit(client.post, "/api/v1/tasks", json={"title": "Last"})
            eventually(lambda: run_sql(url, WAITING) == 1)
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: code_of_readiness(service) == "shutting_down")
            say_something_else()
            assert "Shutting down" not in service.output()
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: service.output().count("Shutting down") == 2)
            say_something_else()
            assert not write.done()
        assert write.result(PATIENCE).status_code == 201
        assert service.process.wait(PATIENCE) == 0, service.output()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_lets_what_is_under_way_finish(new_database: NewDatabase, workers: str) -> None:
    url = new_database()
    with (
        running_service(url, **PATIENT, WORKERS=workers) as service,
        blocking_client(service.base_url) as client,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        client.headers["Authorization"] = f"Bearer {account_on(service, url).token}"
        started_workers(service, int(workers))
        with locked_tasks(url):
            write = elsewhere.submit(client.post, "/api/v1/tasks", json={"title": "Last"})
            eventually(lambda: run_sql(url, WAITING) == 1)
            # As a terminal does, to all that it runs.
            for pid in [service.process.pid, *workers_of(service)]:
                os.kill(pid, signal.SIGINT)
            eventually(lambda: service.output().count("Shutting down") == int(workers))
            assert not write.done()
        assert write.result(PATIENCE).status_code == 201
        assert service.process.wait(PATIENCE) == 0, service.output()


def test_a_signal_to_end_is_heeded_while_workers_are_replaced(new_database: NewDatabase) -> None:
    with running_service(new_database(), WORKERS="4") as service:
        started_workers(service, 4)
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: service.output().count("Started server process") == 5)
        # The second comes while the first is waited with.
        service.process.send_signal(signal.SIGTERM)
        assert service.stop(signal.SIGTERM) == 0, service.output()
        # Of four only the one that was being replaced has been.
        assert service.output().count("Started server process") <= 6


def test_a_signal_to_end_is_heeded_while_a_replaced_worker_finishes_what_it_began(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    with (
        running_service(url, **PATIENT, WORKERS="2", SHUTDOWN_DELAY=LONG) as service,
        blocking_client(service.base_url) as client,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        client.headers["Authorization"] = f"Bearer {account_on(service, url).token}"
        with locked_tasks(url):
            write = elsewhere.submit(client.post, "/api/v1/tasks", json={"title": "Last"})
            eventually(lambda: run_sql(url, WAITING) == 1)
            service.process.send_signal(signal.SIGHUP)
            # An idle one has nothing to wait for.
            eventually(lambda: "Waiting for connections to close" in service.output())
            service.process.send_signal(signal.SIGTERM)
            # It would have eight seconds.
            eventually(lambda: code_of_readiness(service) == "shutting_down", within=4)
            assert not write.done()
        assert write.result(PATIENCE).status_code == 201
        assert service.stop(signal.SIGTERM) == 0, service.output()


def test_workers_that_die_while_they_start_are_replaced_at_once(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    environment = production(new_database()) | {"WORKERS": "2"}
    service = RunningService(environment, tmp_path / "log")
    try:
        eventually(lambda: len(workers_of(service)) == 2)
        first = workers_of(service)
        for pid in first:
            os.kill(pid, signal.SIGSTOP)
        # By then they have been asked whether they are there, which is done twice a second.
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(1.5)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        eventually(partial(is_ready, service))
        assert service.stop() == 0, service.output()
    finally:
        service.process.kill()
        service.process.wait()


def test_a_worker_that_hangs_keeps_no_other_from_ending_as_it_should(
    new_database: NewDatabase,
) -> None:
    with running_service(new_database(), WORKERS="2") as service:
        hanging, _ = started_workers(service, 2)
        os.kill(hanging, signal.SIGSTOP)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(KILLED_WITHIN) == 0, service.output()
        assert service.output().count("Finished server process") == 1
        assert service.output().count("worker killed") == 1


def test_a_worker_that_hangs_keeps_no_dead_one_from_being_replaced(
    new_database: NewDatabase,
) -> None:
    with running_service(new_database(), WORKERS="2") as service:
        hanging, dying = started_workers(service, 2)
        os.kill(hanging, signal.SIGSTOP)
        # By then the one that hangs has been asked whether it is there.
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(1.5)
        os.kill(dying, signal.SIGKILL)
        eventually(lambda: service.output().count("Application startup complete") == 3)
        eventually(partial(is_ready, service))
        os.kill(hanging, signal.SIGCONT)


def test_a_worker_that_hangs_is_replaced_with_the_others(new_database: NewDatabase) -> None:
    with running_service(new_database(), WORKERS="2") as service:
        hanging, _ = started_workers(service, 2)
        os.kill(hanging, signal.SIGSTOP)
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: service.output().count("worker killed") == 1, within=KILLED_WITHIN)
        assert len(started_workers(service, 4)) == 4
        eventually(partial(has_ended_workers, service, 1))


def roll(service: RunningService, times: int) -> None:
    """Replace both workers so many times, waiting for each time to end."""
    for time in range(1, times + 1):
        service.process.send_signal(signal.SIGHUP)
        started_workers(service, 2 + 2 * time)
        eventually(partial(has_ended_workers, service, 2 * time))


def has_ended_workers(service: RunningService, count: int) -> bool:
    return service.output().count("Finished server process") == count


def failures(writers: Writers) -> list[Answer]:
    return [answer for answer in writers.answers if answer.status not in {200, 201}]


def roll_under_writes(url: str, times: int) -> Writers:
    limits = {"WORKERS": "2", "RATE_LIMIT_API": "", "SHUTDOWN_DELAY": LONG}
    with running_service(url, **limits) as service:
        with Writers(url, [service.base_url], count=8) as writers:
            roll(service, times)
            writers.wait_for_writes(50)
            ready = [get(service, "/health/ready").status_code for _ in range(8)]
        # SIGINT is not delayed.
        assert service.stop(signal.SIGINT) == 0, service.output()
    assert set(ready) == {200}
    return writers


def test_a_rolling_restart_fails_no_request(new_database: NewDatabase) -> None:
    writers = roll_under_writes(new_database(), 1)

    assert failures(writers) == []
    writers.verify()


def test_nodes_that_restart_one_after_the_other_break_no_request(new_database: NewDatabase) -> None:
    url = new_database()
    with ExitStack() as stack:
        nodes = [stack.enter_context(running_service(url, RATE_LIMIT_API="")) for _ in range(2)]
        writers = Writers(url, [node.base_url for node in nodes], count=8)
        with writers:
            for node in nodes:
                assert node.stop() == 0
                writers.wait_for_writes(20)
                port = int(node.base_url.rpartition(":")[2])
                stack.enter_context(running_service(url, port, RATE_LIMIT_API=""))
                writers.wait_for_writes(50)
    # A node that is not there refuses the connection; whatever one was asked, it answered.
    assert {answer.code for answer in failures(writers)} == {"ConnectError"}
    writers.verify()


def test_workers_end_when_who_looks_after_them_is_killed(new_database: NewDatabase) -> None:
    with running_service(new_database(), WORKERS="2") as service:
        workers = started_workers(service, 2)
        service.stop(signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        assert refuses_connections(service)
