"""The database goes away, hangs, fills up, is locked or migrated under load, and comes back."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import httpx
import pytest

from alembic import command
from app.core.settings import CHECKOUT
from app.db.migrations import alembic_config
from tests.db.support import eventually
from tests.support import (
    SECRET_KEY,
    RunningService,
    blocking_client,
    running_service,
)
from tests.survival.cluster import Cluster, cluster
from tests.survival.writers import Writers

pytestmark = pytest.mark.survival

CLIENTS_WAIT_SECONDS = 2
BACK_WITHIN_SECONDS = 2
# Between SIGTERM and SIGKILL, as Docker does.
CONTAINERS_WAIT_SECONDS = 10
MAX_CONNECTIONS = 40


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    with cluster(max_connections=str(MAX_CONNECTIONS)) as server:
        yield server


@pytest.fixture(scope="module")
def service(postgres: Cluster) -> Iterator[RunningService]:
    """One service for all faults, which has to get over each of them by itself."""
    with running_service(postgres.url) as service:
        yield service


@pytest.fixture
def writers(postgres: Cluster, service: RunningService) -> Writers:
    return Writers(postgres.url, [service.base_url])


def assert_only_refused(writers: Writers, *, since: float) -> None:
    """Whatever was asked since then got a 503 that says when to come again, and that soon."""
    answers = writers.asked_since(since)
    assert {answer.status for answer in answers} == {503}
    assert {answer.retry_after for answer in answers} == {"1"}


def assert_nothing_else_went_wrong(writers: Writers) -> None:
    assert writers.statuses().keys() <= {200, 201, 503}
    assert writers.slowest() < CLIENTS_WAIT_SECONDS
    writers.verify()


@pytest.mark.parametrize("fault", ["stop", "kill", "freeze"])
def test_an_outage_is_a_503_within_two_seconds_and_ends_within_two_of_the_databases_return(
    postgres: Cluster, service: RunningService, writers: Writers, fault: str
) -> None:
    end = postgres.thaw if fault == "freeze" else postgres.start
    with writers:
        getattr(postgres, fault)()
        gone = time.monotonic()
        writers.wait_for_answers(200)
        # Those that were under way when it happened are answered too.
        writers.wait_for_answers_asked_before(gone + 1)
        assert_only_refused(writers, since=gone)
        with blocking_client(service.base_url) as client:
            assert client.get("/health").status_code == 200
            assert client.get("/metrics").status_code == 200
            assert client.get("/health/ready").status_code == 503
        end()
        back = time.monotonic()
        writers.wait_for_writes(100)
    assert writers.last_failure() < back + BACK_WITHIN_SECONDS
    assert_nothing_else_went_wrong(writers)


def test_a_database_out_of_connections_is_a_503_until_it_has_some(
    postgres: Cluster, writers: Writers
) -> None:
    ours = "FROM pg_stat_activity WHERE application_name = 'taskflow'"
    with writers, ExitStack() as others:
        first = others.enter_context(postgres.session())
        taken = 1
        while taken < MAX_CONNECTIONS:
            try:
                others.enter_context(postgres.session())
                taken += 1
            except asyncpg.TooManyConnectionsError:
                # Whoever is faster gets the places that become free.
                first(f"SELECT count(pg_terminate_backend(pid)) {ours}")
        full = time.monotonic()
        writers.wait_for_answers(100)
        assert_only_refused(writers, since=full)
        others.close()
        free = time.monotonic()
        writers.wait_for_writes(100)
    assert writers.last_failure() < free + BACK_WITHIN_SECONDS
    assert_nothing_else_went_wrong(writers)


def test_a_read_only_database_refuses_writes_with_503_and_is_read(
    postgres: Cluster, writers: Writers
) -> None:
    with writers:
        postgres.reload(default_transaction_read_only="on")
        eventually(lambda: postgres.sql("SHOW default_transaction_read_only") == "on")
        writers.wait_for_answers(50)
        since = time.monotonic()
        writers.wait_for_answers(100)
        meanwhile = writers.asked_since(since)
        postgres.reload(default_transaction_read_only="off")
        writable = time.monotonic()
        writers.wait_for_writes(100)
    assert {answer.status for answer in meanwhile if answer.method == "GET"} == {200}
    assert {answer.status for answer in meanwhile if answer.method != "GET"} == {503}
    assert writers.last_failure() < writable + BACK_WITHIN_SECONDS
    assert_nothing_else_went_wrong(writers)


def test_a_statement_that_waits_is_not_taken_for_a_server_that_hangs(
    postgres: Cluster, service: RunningService
) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskflow' "
        "AND wait_event_type = 'Lock' AND now() - query_start > interval '2.5 s'"
    )
    user = {"username": "ada", "email": "ada@example.com", "password": "correct horse 7"}
    with (
        blocking_client(service.base_url) as client,
        ThreadPoolExecutor(1) as elsewhere,
        postgres.session() as other,
    ):
        other("BEGIN")
        other("LOCK TABLE users")
        asked = elsewhere.submit(client.post, "/api/v1/users", json=user)
        eventually(lambda: postgres.sql(waiting))
        other("COMMIT")
        response: httpx.Response = asked.result()
    assert response.status_code == 201, response.text


def test_a_service_whose_database_hangs_ends_when_it_is_told_to(postgres: Cluster) -> None:
    form = {"grant_type": "password", "username": "nobody", "password": "nothing"}
    with running_service(postgres.url) as service:
        with blocking_client(service.base_url) as client:
            # Now it has a connection, which nobody uses.
            assert client.post("/api/v1/auth/token", data=form).status_code == 400
        postgres.freeze()
        try:
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(CONTAINERS_WAIT_SECONDS) == 0
        finally:
            postgres.thaw()


REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "under load"
down_revision = "{head}"

def upgrade():
    op.add_column("tasks", sa.Column("colour", sa.Text(), server_default="red", nullable=False))
    op.create_index("ix_tasks_colour", "tasks", ["owner_id", "colour"])
    op.alter_column("tasks", "external_id", type_=sa.String(210))

def downgrade():
    op.drop_column("tasks", "colour")
"""


def test_a_migration_under_load_costs_at_most_a_503(
    postgres: Cluster, writers: Writers, tmp_path: Path
) -> None:
    head = postgres.sql("SELECT version_num FROM alembic_version")
    (tmp_path / "under_load.py").write_text(REVISION.format(head=head))
    config = alembic_config(postgres.url)
    locations = [str(CHECKOUT / "alembic" / "versions"), str(tmp_path)]
    config.set_main_option("version_locations", " ".join(locations))
    config.set_main_option("path_separator", "space")
    with writers:
        # A reader that takes its time, such as a backup, keeps the migration from the table.
        with ThreadPoolExecutor(1) as elsewhere, postgres.session() as reader:
            reader("BEGIN")
            reader("SELECT count(*) FROM tasks")
            migrating = elsewhere.submit(command.upgrade, config, "head")
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode LIKE 'Access%'"
            eventually(lambda: postgres.sql(waiting))
            # Others get by, before and while it tries.
            writers.wait_for_writes(100)
            assert not migrating.done()
            reader("COMMIT")
            migrating.result()
            writers.wait_for_writes(100)
            elsewhere.submit(command.downgrade, config, head).result()
        done = time.monotonic()
        writers.wait_for_writes(100)
    assert writers.last_failure() < done + BACK_WITHIN_SECONDS
    assert_nothing_else_went_wrong(writers)


def test_a_service_that_starts_before_its_database_is_ready_soon_after_it(
    postgres: Cluster, tmp_path: Path
) -> None:
    postgres.stop()
    environment = {"ENVIRONMENT": "production", "SECRET_KEY": SECRET_KEY}
    service = RunningService(environment | {"DATABASE_URL": postgres.url}, tmp_path / "log")
    try:
        with blocking_client(service.base_url) as client:

            def status_of(path: str) -> int:
                try:
                    return client.get(path).status_code
                except httpx.TransportError:
                    return 0

            eventually(lambda: status_of("/health") == 200)
            assert status_of("/health/ready") == 503
            postgres.start()
            back = time.monotonic()
            eventually(lambda: status_of("/health/ready") == 200)
            assert time.monotonic() < back + BACK_WITHIN_SECONDS
    finally:
        service.stop()
    assert "Traceback" not in service.output()
