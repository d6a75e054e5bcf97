"""Fixtures, and what is skipped where.

Tests are kept apart by tenancy: each takes fresh accounts and cleans nothing.
"""

import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock
from uuid import uuid4

import httpx
import pytest
import structlog
from fastapi import FastAPI
from sqlalchemy.engine import make_url

from app.core import security
from app.core.logging import configure_logging
from app.core.security import ARGON2_MEMORY_KIB, PasswordHasher
from app.core.settings import Settings
from app.db.embedded import embedded_database, throwaway_data_dir
from app.db.migrations import migrate
from app.db.session import Database
from app.main import create_app
from tests.contract.conformance import watch_answers
from tests.proxies import PROGRAMS, Redis, pgbouncer
from tests.support import (
    SERVICE_DEFAULTS,
    Account,
    http_client,
    make_account,
    run_sql,
    served,
    service_settings,
)

NewDatabase = Callable[[], str]
NewAccount = Callable[..., Awaitable[Account]]


# What a marked test needs beyond Python, as a program to look for.
NEEDS = {
    "bench": "wrk",
    "browser": "chromium",
    "clippy": "cargo-clippy",
    "curl": "curl",
    "go": "go",
    "haproxy": "haproxy",
    "java": "java",
    "maven": "mvn",
    "nginx": "nginx",
    "node": "npm",
    "pgbouncer": "pgbouncer",
    "promtool": "promtool",
    "redis": "redis-server",
    "rust": "cargo",
    "wrk": "wrk",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--through-pgbouncer",
        action="store_true",
        help="let the services reach their databases through PgBouncer in transaction mode",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--through-pgbouncer"):
        SERVICE_DEFAULTS["database_pooler"] = "transaction"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the machine cannot run, with the reason; REQUIRE_ALL=1 makes that a failure."""
    for marker, program in NEEDS.items():
        if item.get_closest_marker(marker) and shutil.which(program, path=PROGRAMS) is None:
            message = f"needs {program}, which is not installed"
            if os.environ.get("REQUIRE_ALL") == "1":
                pytest.fail(message)
            pytest.skip(message)
    if item.get_closest_marker("direct") and item.config.getoption("--through-pgbouncer"):
        pytest.skip("is about what a session keeps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first: at the end it would keep one worker busy and the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lasts as long as the tests.

    Looking through all of it takes most of a second, in which a deadline may pass.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _settings_come_from_tests_alone() -> Iterator[None]:
    """What the developer has set must not change what is tested."""
    names = {name for name in os.environ if name in _setting_names() or name.startswith("OTEL_")}
    kept = {name: os.environ.pop(name) for name in names}
    configuration: Any = Settings.model_config
    configuration["env_file"] = None
    yield
    os.environ.update(kept)


def _setting_names() -> list[str]:
    return [name.upper() for name in Settings.model_fields]


@pytest.fixture(scope="session", autouse=True)
def _answers_are_as_documented() -> Iterator[None]:
    with watch_answers():
        yield


@pytest.fixture(scope="session", autouse=True)
def _logs_are_the_services() -> None:
    configure_logging(level="INFO", form="json")


@pytest.fixture(scope="session", autouse=True)
def _passwords_are_cheap() -> Iterator[None]:
    """Argon2 with hardly any memory in this process; `costly_passwords` is for what needs more."""
    with mock.patch.object(security, "ARGON2_MEMORY_KIB", 16):
        yield


@pytest.fixture
def costly_passwords(app: FastAPI) -> Iterator[None]:
    """The shared service hashes as in production: for races, and for what is stored."""
    cheap = app.state.password_hasher
    with mock.patch.object(security, "ARGON2_MEMORY_KIB", ARGON2_MEMORY_KIB):
        app.state.password_hasher = PasswordHasher(concurrency=1)
    yield
    app.state.password_hasher = cheap


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A PostgreSQL server: TEST_DATABASE_URL's if set, else a throw-away one of our own."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with throwaway_data_dir() as folder, embedded_database(folder, throwaway=True) as database:
        yield database.url


@pytest.fixture(scope="session")
def new_empty_database(server_url: str) -> Iterator[NewDatabase]:
    """Makes empty databases on the server and drops them at the end."""
    yield from _databases(server_url, clone_of="template0")


@pytest.fixture(scope="session")
def template_url(new_empty_database: NewDatabase) -> str:
    """A migrated database that nobody is connected to, for cloning."""
    url = new_empty_database()
    migrate(url)
    return url


@pytest.fixture(scope="session")
def new_database(
    server_url: str, template_url: str, pytestconfig: pytest.Config
) -> Iterator[NewDatabase]:
    """Makes migrated databases, for tests of what is global: faults, the command line."""
    clone_of = make_url(template_url).database or ""
    if not pytestconfig.getoption("--through-pgbouncer"):
        yield from _databases(server_url, clone_of=clone_of)
        return
    with pgbouncer(server_url) as pooled_url:
        yield from _databases(server_url, clone_of=clone_of, reached_by=pooled_url)


def _databases(
    server_url: str, *, clone_of: str, reached_by: str | None = None
) -> Iterator[NewDatabase]:
    made: list[str] = []
    url = make_url(reached_by or server_url)

    def new() -> str:
        name = f"taskflow_test_{uuid4().hex[:12]}"
        run_sql(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{clone_of}"')
        made.append(name)
        return url.set(database=name).render_as_string(hide_password=False)

    yield new
    if made:
        run_sql(server_url, *(f'DROP DATABASE "{name}" WITH (FORCE)' for name in made))


@pytest.fixture(scope="session")
def settings(new_database: NewDatabase) -> Settings:
    return service_settings(new_database())


@pytest.fixture(scope="session")
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture(scope="session")
def base_url(app: FastAPI) -> Iterator[str]:
    """The service that most tests share, on a real port."""
    with served(app) as url:
        yield url


@pytest.fixture(scope="session")
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The tests' own way to the shared service's database."""
    database = Database(settings)
    yield database
    await database.close()


@pytest.fixture(scope="session")
async def client(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is not logged in."""
    async with http_client(base_url) as client:
        yield client


@pytest.fixture
async def new_account(base_url: str, database: Database) -> AsyncIterator[NewAccount]:
    """Makes accounts of the shared service; takes what `make_account` takes."""
    made: list[Account] = []

    async def new(**options: Any) -> Account:
        made.append(await make_account(database, base_url, **options))
        return made[-1]

    yield new
    for account in made:
        await account.client.aclose()


@pytest.fixture
def redis() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory() as folder:
        server = Redis(Path(folder))
        yield server
        server.kill()


@pytest.fixture
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """The structured lines that the service in this process logs during the test."""
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as lines:
        yield cast("list[dict[str, Any]]", lines)


@pytest.fixture
async def alice(new_account: NewAccount) -> Account:
    return await new_account()


@pytest.fixture
async def bob(new_account: NewAccount) -> Account:
    return await new_account()
