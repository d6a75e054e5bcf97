"""The database refuses, fails or goes away: no 2xx without a commit, no 500, no word too many."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import literal, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.accounts.credentials import LOGIN_PREFIX
from app.core.errors import APIError, DatabaseUnavailable, InternalError, NotFound, Overloaded
from app.core.security import new_token
from app.core.settings import Settings
from app.db.errors import as_error, in_words
from app.db.session import Database
from app.db.statements import Statement
from app.main import create_app
from tests.conftest import NewDatabase
from tests.faults.commits import let_commits_fail
from tests.silenceable_proxy import SilenceableProxy
from tests.support import (
    CHEAP_HASH,
    PASSWORD,
    Account,
    assert_error,
    http_client,
    make_account,
    run_sql,
    served,
    service_settings,
    until,
)

DEFAULT_LOCK_TIMEOUT, DEFAULT_STATEMENT_TIMEOUT = (
    Settings.model_fields[f"database_{limit}_timeout"].default for limit in ("lock", "statement")
)


@pytest.fixture
def fault_settings(new_database: NewDatabase) -> Settings:
    return service_settings(
        new_database(),
        database_pool_size=2,
        database_pool_timeout=0.2,
        database_statement_timeout=1,
        database_lock_timeout=DEFAULT_LOCK_TIMEOUT / DEFAULT_STATEMENT_TIMEOUT,
    )


@pytest.fixture
def fault_url(fault_settings: Settings) -> Iterator[str]:
    with served(create_app(fault_settings)) as url:
        yield url


@pytest.fixture
async def carol(fault_settings: Settings, fault_url: str) -> AsyncIterator[Account]:
    database = Database(fault_settings)
    account = await make_account(database, fault_url)
    yield account
    await account.client.aclose()
    await database.close()


async def test_a_write_whose_commit_fails_gets_no_success(
    carol: Account, fault_settings: Settings
) -> None:
    task = await carol.create_task()
    let_commits_fail(fault_settings.required_database_url, "tasks")
    path = f"/api/v1/tasks/{task['id']}"

    responses = [
        await carol.client.post("/api/v1/tasks", json={"title": "Lost?"}),
        await carol.client.patch(path, json={"title": "Lost?"}),
        await carol.client.delete(path),
    ]
    for response in responses:
        assert_error(response, 503, "database_unavailable")
        assert response.headers["Retry-After"] == "1"
        assert "disk" not in response.text
    listed = (await carol.client.get("/api/v1/tasks")).json()["data"]["tasks"]
    assert listed == [task]


async def test_a_registration_whose_commit_fails_gets_no_success(
    fault_settings: Settings, fault_url: str
) -> None:
    let_commits_fail(fault_settings.required_database_url, "users")
    data = {"username": "dora", "email": "dora@example.com", "password": "secret"}
    async with http_client(fault_url) as client:
        for _ in range(2):
            response = await client.post("/api/v1/users", json=data)
            # The second time it is still free: nothing of the first attempt was kept.
            assert_error(response, 503, "database_unavailable")


async def test_a_new_password_whose_commit_fails_is_not_set_and_not_in_the_audit_trail(
    fault_settings: Settings, fault_url: str, log_lines: list[dict[str, Any]]
) -> None:
    database = Database(fault_settings)
    account = await make_account(database, fault_url, password_hash=CHEAP_HASH)
    let_commits_fail(fault_settings.required_database_url, "users")
    change = {"current_password": PASSWORD, "new_password": "another horse"}
    response = await account.client.post("/api/v1/users/me/password", json=change)
    assert_error(response, 503, "database_unavailable")
    assert "password_changed" not in [line["event"] for line in log_lines]
    run_sql(fault_settings.required_database_url, "DROP TRIGGER fail ON users")

    response = await account.client.post("/api/v1/users/me/password", json=change)
    assert response.status_code == 200
    assert "password_changed" in [line["event"] for line in log_lines]
    await account.client.aclose()
    await database.close()


# A pooler would lend the connection that is ended to the one who ends it.
@pytest.mark.direct
async def test_connections_that_the_server_ends_cost_a_503_and_then_all_is_well(
    carol: Account, fault_settings: Settings
) -> None:
    assert (await carol.client.get("/api/v1/tasks")).status_code == 200
    run_sql(
        fault_settings.required_database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'taskflow' AND datname = current_database()",
    )

    statuses = [(await carol.client.get("/api/v1/tasks")).status_code for _ in range(4)]
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200


async def ask_in_a_statement(database: Database) -> object:
    return (await database.fetch(Statement(select(literal(7).label("number"))), {}))[0]["number"]


async def ask_in_a_session(database: Database) -> object:
    async with database.session() as session:
        return await session.scalar(text("SELECT 7"))


async def ask_in_a_transaction(database: Database) -> object:
    async with database.transaction() as session:
        return await session.scalar(text("SELECT 7"))


@pytest.mark.parametrize("ask", [ask_in_a_statement, ask_in_a_session, ask_in_a_transaction])
async def test_a_connection_that_falls_silent_within_a_statement_is_given_up_on_and_replaced(
    fault_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[Database], Awaitable[object]],
) -> None:
    monkeypatch.setattr("app.db.session.SERVER_IS_GONE_AFTER", 0.1)
    url = make_url(fault_settings.required_database_url)
    async with SilenceableProxy(url.host or "", url.port or 5432) as proxy:
        through_proxy = url.set(host="127.0.0.1", port=proxy.port)
        settings = service_settings(
            through_proxy.render_as_string(hide_password=False),
            database_pool_size=1,
            database_statement_timeout=0.4,
        )
        # Nobody watches its servers, as where a server answers all others.
        database = Database(settings)
        assert await ask(database) == 7
        proxy.deaf = True
        async with asyncio.timeout(5):
            with pytest.raises((OSError, DBAPIError)) as told:
                await ask(database)
        assert isinstance(as_error(told.value), DatabaseUnavailable)
        proxy.deaf = False
        assert await ask(database) == 7
        await database.close()


async def test_a_full_pool_is_answered_at_once_with_503(
    carol: Account, fault_settings: Settings, log_lines: list[dict[str, Any]]
) -> None:
    limits = {"database_lock_timeout": 60, "database_statement_timeout": 60}
    app_database = Database(fault_settings)
    with served(create_app(fault_settings.model_copy(update=limits))) as url:
        async with http_client(url, dict(carol.client.headers)) as client:
            assert (await client.get("/api/v1/tasks")).status_code == 200
            async with app_database.transaction() as session:
                # Every list waits for this lock, and the pool holds two connections.
                await session.execute(text("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE"))
                lists = [asyncio.create_task(client.get("/api/v1/tasks")) for _ in range(6)]
                await until(lambda: sum(one.done() for one in lists) == 4)
                # A busy node is not a dead one: readiness asks the database and not the pool.
                ready = await client.get("/health/ready")
            responses = await asyncio.gather(*lists)
    await app_database.close()

    assert ready.status_code == 200
    assert sorted(response.status_code for response in responses) == [200, 200, *[503] * 4]
    for response in responses:
        if response.status_code != 200:
            assert_error(response, 503, "overloaded")
            assert response.headers["Retry-After"] == "1"
    full = [line["error"] for line in log_lines if line["event"] == "overloaded"]
    assert full == ["TimeoutError"] * 4


@pytest.mark.direct
async def test_a_lock_that_another_keeps_is_a_503_before_the_statement_has_had_its_time(
    carol: Account, fault_settings: Settings, log_lines: list[dict[str, Any]]
) -> None:
    task = await carol.create_task()
    other = Database(fault_settings)
    async with other.transaction() as session:
        await session.execute(text("SELECT id FROM tasks FOR UPDATE"))
        path = f"/api/v1/tasks/{task['id']}"
        # The second waits for the first as well.
        patches = (carol.client.patch(path, json={"title": "Waits"}) for _ in range(2))
        plain = await asyncio.gather(*patches)
        await session.execute(text("LOCK TABLE tasks"))
        # The limit of the wait for its key is no limit of the write.
        keyed = await carol.client.post(
            "/api/v1/tasks", json={"title": "Waits"}, headers={"Idempotency-Key": "k"}
        )
    await other.close()

    assert 2 * DEFAULT_LOCK_TIMEOUT < DEFAULT_STATEMENT_TIMEOUT
    for response in (*plain, keyed):
        assert_error(response, 503, "overloaded")
    states = [line.get("sqlstate") for line in log_lines if line["event"] == "overloaded"]
    assert states == ["55P03", "55P03", "55P03"]


@pytest.mark.direct
async def test_a_transaction_that_does_nothing_is_ended_and_lets_go_of_its_locks(
    carol: Account, fault_settings: Settings
) -> None:
    task = await carol.create_task()
    limit = {"database_idle_transaction_timeout": 0.2, "database_lock_timeout": 0.2}
    idle = Database(fault_settings.model_copy(update=limit))
    path = f"/api/v1/tasks/{task['id']}"
    async with idle.transaction() as session:
        await session.execute(text("SELECT id FROM tasks FOR UPDATE"))
        response = await carol.client.patch(path, json={"title": "Mine"})
        with pytest.raises(DBAPIError) as ended:
            await session.execute(text("SELECT 1"))
        await session.rollback()
    await idle.close()

    assert response.status_code == 200
    assert isinstance(as_error(ended.value), DatabaseUnavailable)


async def test_a_bug_is_a_500_in_the_envelope_that_tells_nothing_and_keeps_the_connection(
    carol: Account, fault_settings: Settings, log_lines: list[dict[str, Any]]
) -> None:
    run_sql(fault_settings.required_database_url, "ALTER TABLE tasks RENAME TO private_tasks")
    response = await carol.client.get("/api/v1/tasks")

    assert_error(response, 500, "internal_error")
    assert "private" not in response.text
    assert "SELECT" not in response.text
    # The line of a request comes after its answer.
    await until(lambda: log_lines[-1]["event"] == "request")
    assert log_lines[-2]["event"] == "unhandled error"
    assert response.headers.get("Connection", "keep-alive") != "close"
    run_sql(fault_settings.required_database_url, "ALTER TABLE private_tasks RENAME TO tasks")
    assert (await carol.client.get("/api/v1/tasks")).status_code == 200


async def test_a_migration_under_a_warm_pool_costs_at_most_a_503(
    carol: Account, fault_settings: Settings
) -> None:
    task = await carol.create_task()
    path = f"/api/v1/tasks/{task['id']}"
    assert (await carol.client.get(path)).status_code == 200
    run_sql(
        fault_settings.required_database_url,
        "ALTER TABLE tasks ALTER external_id TYPE varchar(210)",
    )

    statuses = [(await carol.client.get(path)).status_code for _ in range(4)]
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200


async def test_the_log_of_a_refused_row_does_not_hold_the_row(
    carol: Account, fault_settings: Settings, log_lines: list[dict[str, Any]]
) -> None:
    run_sql(
        fault_settings.required_database_url,
        "ALTER TABLE tasks ADD CONSTRAINT no_secrets CHECK (title <> 'private title')",
    )
    response = await carol.client.post("/api/v1/tasks", json={"title": "private title"})

    assert_error(response, 500, "internal_error")
    (fault,) = [line for line in log_lines if line["event"] == "unhandled error"]
    assert (fault["sqlstate"], fault["constraint"]) == ("23514", "no_secrets")
    assert "create_task" in fault["where"]
    assert "private title" not in str(log_lines)


async def test_a_503_leaves_its_cause_in_the_log(log_lines: list[dict[str, Any]]) -> None:
    settings = service_settings("postgresql://nobody:hunter2@127.0.0.1:1/none")
    with served(create_app(settings)) as url:
        async with http_client(url) as client:
            await client.get("/health/ready")

    (fault,) = [line for line in log_lines if line["event"] == "database_unavailable"]
    assert fault["error"] == "ConnectionRefusedError"
    assert "hunter2" not in str(log_lines)


async def test_without_a_database_every_call_is_a_503() -> None:
    settings = service_settings("postgresql://nobody:hunter2@127.0.0.1:1/none")
    data = {"username": "dora", "email": "dora@example.com", "password": "secret"}
    form = {"grant_type": "password", "username": "dora", "password": "secret"}
    token = new_token(LOGIN_PREFIX)
    login = {"Authorization": f"Bearer {token}"}
    calls = [
        ("GET", f"/api/v1/{path}") for path in ("tasks", "tasks/1", "tasks/export", "users/me")
    ]
    calls += [("DELETE", "/api/v1/tasks/1"), ("POST", "/api/v1/tasks/1/restore")]
    with served(create_app(settings)) as url:
        async with http_client(url) as client:
            responses = [
                await client.post("/api/v1/users", json=data),
                await client.post("/api/v1/auth/token", data=form),
                await client.post("/api/v1/auth/revoke", data={"token": token}),
                *[await client.request(*call, headers=login) for call in calls],
            ]

    for response in responses:
        assert_error(response, 503, "database_unavailable")
        assert "hunter2" not in response.text


class _Refusal(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("refused")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (PoolTimeoutError(), Overloaded),
        (ConnectionRefusedError(), DatabaseUnavailable),
        (TimeoutError(), DatabaseUnavailable),
        (DBAPIError("", {}, _Refusal("28P01")), DatabaseUnavailable),
        (DBAPIError("", {}, _Refusal("3D000")), DatabaseUnavailable),
        (DBAPIError("", {}, _Refusal("57014")), DatabaseUnavailable),
        (DBAPIError("", {}, _Refusal("40P01")), Overloaded),
        (DBAPIError("", {}, _Refusal("25006")), DatabaseUnavailable),
        (DBAPIError("", {}, _Refusal("53300")), DatabaseUnavailable),
        (DBAPIError("", {}, _Refusal("55P03")), Overloaded),
        (DBAPIError("", {}, _Refusal("25P03")), DatabaseUnavailable),
        (asyncpg.InternalClientError(), DatabaseUnavailable),
        (asyncpg.OutdatedSchemaCacheError("changed"), DatabaseUnavailable),
        (DBAPIError("", {}, _Refusal("42P01")), InternalError),
        (DBAPIError("", {}, _Refusal(None)), InternalError),
        (DBAPIError("", {}, _Refusal(None), connection_invalidated=True), DatabaseUnavailable),
        (KeyError("x"), InternalError),
        (FileNotFoundError("x"), InternalError),
        (PermissionError("x"), InternalError),
        (NotFound(), NotFound),
    ],
)
def test_what_is_transient_is_a_503_and_a_bug_is_a_500(
    exception: Exception, expected: type[APIError]
) -> None:
    assert type(as_error(exception)) is expected


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (asyncpg.LockNotAvailableError(""), "try again"),
        (asyncpg.DeadlockDetectedError(""), "others keep a row"),
        (PoolTimeoutError(), "try again"),
        (ConnectionRefusedError(), "does not answer"),
        (asyncpg.InvalidPasswordError(""), "let this user in"),
        (asyncpg.UndefinedTableError(""), "taskflow migrate"),
        (asyncpg.InsufficientPrivilegeError(""), "Grant"),
    ],
)
def test_operators_are_told_what_to_do(fault: Exception, words: str) -> None:
    assert words in str(in_words(fault))


def test_a_bug_is_not_put_into_words() -> None:
    assert in_words(asyncpg.UndefinedColumnError("")) is None
