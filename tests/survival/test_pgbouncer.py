"""Through PgBouncer in transaction mode all is as on a connection of one's own."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import URL, make_url

from app.db.session import make_engine
from tests.bench.calls import requests_of
from tests.bench.data import SECRET_KEY, seed
from tests.bench.load import saturate
from tests.cli.support import taskflow
from tests.conftest import NewDatabase
from tests.db.support import eventually, run_sql
from tests.proxies import pgbouncer
from tests.support import (
    CLEAN_ENVIRONMENT,
    TASKFLOW,
    RunningService,
    assert_error,
    blocking_client,
    running_service,
)
from tests.survival.cluster import free_port

pytestmark = [pytest.mark.survival, pytest.mark.pgbouncer]

ROOT = Path(__file__).resolve().parents[2]
# What goes through every way to send statements: sessions, transactions, compiled ones, exports.
SUBSET = [
    "tests/tasks/test_idempotency.py",
    "tests/tasks/test_export_tasks.py",
    "tests/concurrency/test_repeated_writes.py",
    "tests/faults",
    "tests/cli/test_commands.py",
]
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
FEW = {"default_pool_size = 20": "default_pool_size = 2"}
UNLIMITED = {"RATE_LIMIT_API": ""}
# What a session has beside what its server gave it and what PgBouncer sets for each client anew.
LEFT_BEHIND = """
    SELECT name, setting FROM pg_settings WHERE source = 'session' AND setting <> reset_val
        AND name NOT IN ('application_name', 'client_encoding', 'TimeZone')
    UNION ALL SELECT 'prepared', statement FROM pg_prepared_statements
"""


@contextmanager
def pooled_service(
    database_url: str, changes: dict[str, str] | None = None, **environment: str
) -> Iterator[tuple[RunningService, str]]:
    """A service behind PgBouncer, and PgBouncer's URL of its database."""
    with (
        pgbouncer(database_url, changes) as url,
        running_service(url, DATABASE_POOLER="transaction", **environment) as service,
    ):
        yield service, url


def test_the_tests_of_the_api_pass_through_pgbouncer() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--through-pgbouncer", "--quiet", "-n2", *SUBSET],
        cwd=ROOT,
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    "wrong", [lambda url: url.set(password="hunter2"), lambda url: url.set(database="nowhere")]
)
def test_a_pooler_that_does_not_let_us_in_is_told_in_words(
    new_database: NewDatabase, wrong: Callable[[URL], URL]
) -> None:
    with pgbouncer(new_database()) as url:
        address = wrong(make_url(url)).render_as_string(hide_password=False)
        done = taskflow("users", "list", DATABASE_URL=address, DATABASE_POOLER="transaction")

    assert done.returncode == 1
    # Later versions of PgBouncer have PostgreSQL's own codes for both.
    told = ("a pooler does not let us", "the database does not let this", "the server has no")
    assert done.stderr.startswith(tuple(f"taskflow: {words}" for words in told))
    assert "hunter2" not in done.stderr


@pytest.mark.wrk
def test_thousands_of_requests_on_two_server_connections_all_succeed(
    new_database: NewDatabase,
) -> None:
    database_url = new_database()
    people = asyncio.run(seed(database_url, users=10, tasks=200))
    own = {"SECRET_KEY": SECRET_KEY, "WORKERS": "2", **UNLIMITED}
    with pooled_service(database_url, FEW, **own) as (service, _):
        calls = requests_of("mix", people, service.base_url[7:], number=2_000, seed=1)
        load = saturate(service.base_url, service.process.pid, calls, 4)
        with blocking_client(service.base_url) as client:
            metrics = client.get("/metrics").text
    # 16 clients kept 20 connections busy, of which PgBouncer made two.
    assert load.per_second > 100
    assert 'http_response_status_code="500"' not in metrics


def test_nothing_of_one_client_is_left_for_the_next(new_database: NewDatabase) -> None:
    database_url = new_database()
    # As many engines as many workers, each of which looks up the types that it meets.
    query = "SELECT id FROM tasks WHERE status = $1 AND priority = ANY($2)"
    with pgbouncer(database_url, FEW) as url:

        async def work() -> None:
            engines = [
                make_engine(url, connect_timeout=5, settings={}, pooler="transaction")
                for _ in range(30)
            ]

            async def ask(engine: Any) -> None:
                borrowed = await engine.raw_connection()
                assert await borrowed.driver_connection.fetch(query, "pending", ["low"]) == []
                borrowed.close()
                await engine.dispose()

            await asyncio.gather(*map(ask, engines))

        asyncio.run(work())
        # What stands there is of PgBouncer's own file.
        left = asyncio.run(on_both_servers(url, LEFT_BEHIND))
        assert left == {
            ("statement_timeout", "10000"),
            ("lock_timeout", "4000"),
            ("idle_in_transaction_session_timeout", "10000"),
        }


async def on_both_servers(url: str, query: str) -> set[tuple[str, str]]:
    """The rows of a query on both connections that PgBouncer has, told from an own transaction."""
    first, second = [await asyncpg.connect(url, statement_cache_size=0) for _ in range(2)]
    async with first.transaction(), second.transaction():
        pids = {await one.fetchval("SELECT pg_backend_pid()") for one in (first, second)}
        assert len(pids) == 2
        rows = [tuple(row) for one in (first, second) for row in await one.fetch(query)]
    await first.close()
    await second.close()
    return set(rows)


LIMIT = "statement_timeout = ''10s''"


@pytest.mark.parametrize(
    ("its_own", "ours"),
    [("statement_timeout = ''300ms''", "30"), ("statement_timeout = 0", "0.3")],
    ids=["limit of the server", "limit of the service, without one of the server"],
)
def test_a_statement_that_takes_too_long_is_a_503_and_ends_in_the_database(
    new_database: NewDatabase, its_own: str, ours: str
) -> None:
    database_url = new_database()
    limits = {"DATABASE_STATEMENT_TIMEOUT": ours}
    with (
        pooled_service(database_url, {LIMIT: its_own}, **limits) as (service, _),
        blocking_client(service.base_url) as client,
        locked(database_url, "users"),
    ):
        form = {"grant_type": "password", "username": "ada", "password": "secret"}
        started = time.monotonic()
        response = client.post("/api/v1/auth/token", data=form)
        assert_error(response, 503, "database_unavailable")
        assert time.monotonic() - started < 2
        eventually(lambda: run_sql(database_url, WAITING) == 0)
        assert client.get("/health").status_code == 200


@contextmanager
def locked(database_url: str, table: str) -> Iterator[None]:
    """Nobody reads or writes the table during the block."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(database_url))
        runner.run(connection.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        yield
        runner.run(connection.close())


def test_without_a_connection_to_lend_pgbouncer_lets_clients_have_a_503_in_time(
    new_database: NewDatabase,
) -> None:
    database_url = new_database()
    only_one = {"default_pool_size = 20": "default_pool_size = 1"}
    with (
        pooled_service(database_url, only_one) as (service, url),
        blocking_client(service.base_url) as client,
    ):
        form = {"grant_type": "password", "username": "ada", "password": "secret"}
        # It is held for as long as the table is locked through PgBouncer.
        with locked(url, "users"):
            started = time.monotonic()
            response = client.post("/api/v1/auth/token", data=form)
            assert_error(response, 503, "database_unavailable")
            assert response.headers["Retry-After"] == "1"
            assert time.monotonic() - started < 2
        assert client.post("/api/v1/auth/token", data=form).status_code == 400


def test_a_pgbouncer_with_none_to_lend_is_not_taken_for_a_dead_database(
    new_database: NewDatabase,
) -> None:
    database_url = new_database()
    only_one = {"default_pool_size = 20": "default_pool_size = 1"}
    form = {"grant_type": "password", "username": "ada", "password": "secret"}
    with (
        pooled_service(database_url, only_one) as (service, _),
        blocking_client(service.base_url) as client,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        with locked(database_url, "users"):
            # It waits for the table, and has the only connection.
            waiting = elsewhere.submit(client.post, "/api/v1/auth/token", data=form)
            eventually(lambda: run_sql(database_url, WAITING) == 1)
            started = time.monotonic()
            while time.monotonic() - started < 3:
                assert client.post("/api/v1/auth/token", data=form).status_code == 503
        assert waiting.result().status_code == 400
        assert "database_silent" not in service.output()


def test_a_pgbouncer_that_is_restarted_costs_503_and_then_all_is_well(
    new_database: NewDatabase,
) -> None:
    database_url = new_database()
    port = free_port()
    with ExitStack() as first:
        url = first.enter_context(pgbouncer(database_url, port=port))
        environment = {"DATABASE_POOLER": "transaction"}
        with (
            running_service(url, **environment) as service,
            blocking_client(service.base_url) as client,
        ):
            form = {"grant_type": "password", "username": "ada", "password": "secret"}
            assert client.post("/api/v1/auth/token", data=form).status_code == 400
            first.close()
            for _ in range(3):
                assert client.post("/api/v1/auth/token", data=form).status_code == 503
            assert client.get("/health/ready").status_code == 503
            assert client.get("/health").status_code == 200
            with pgbouncer(database_url, port=port):
                started = time.monotonic()
                eventually(lambda: client.get("/health/ready").status_code == 200)
                answers = [client.post("/api/v1/auth/token", data=form) for _ in range(3)]
                assert [answer.status_code for answer in answers] == [400] * 3
                assert time.monotonic() - started < 2


def test_migrations_take_turns_through_pgbouncer_and_its_limit_does_not_end_them(
    new_empty_database: NewDatabase,
) -> None:
    database_url = new_empty_database()
    short = {LIMIT: "statement_timeout = ''500ms''", "lock_timeout = ''4s''": "lock_timeout = 300"}
    waiters = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND NOT granted AND now() - query_start > '600 ms'"
    )
    with pgbouncer(database_url, short) as url, asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(database_url))
        runner.run(connection.execute("SELECT pg_advisory_lock(7242001)"))
        settings = {"ENVIRONMENT": "testing", "DATABASE_URL": url, "DATABASE_POOLER": "transaction"}
        with ThreadPoolExecutor(2) as nodes:
            runs = [nodes.submit(migrated, settings) for _ in range(2)]
            # Both have waited for longer than a statement may take.
            eventually(lambda: run_sql(database_url, waiters) == 2)
            runner.run(connection.close())
            assert [run.result() for run in runs] == ["The schema is up to date.\n"] * 2
    assert run_sql(database_url, "SELECT count(*) FROM alembic_version") == 1


def migrated(settings: dict[str, str]) -> str:
    done = subprocess.run(
        [TASKFLOW, "migrate"],
        env=CLEAN_ENVIRONMENT | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
