from typing import Any

import pytest

from tests.cli.support import AddUsers, Run, taskflow
from tests.conftest import NewDatabase
from tests.support import SECRET_KEY, run_sql


@pytest.fixture
def database_url(new_database: NewDatabase) -> str:
    return new_database()


@pytest.fixture
def add_users(database_url: str) -> AddUsers:
    """Makes users without the cost of a password."""

    def add(*names: str) -> None:
        statement = "INSERT INTO users (username, email, email_key, password_hash) VALUES "
        rows = [f"('{name}', '{name}@example.com', '{name}@example.com', '')" for name in names]
        run_sql(database_url, statement + ", ".join(rows))

    return add


@pytest.fixture
def run(database_url: str) -> Run:
    """Runs a command against a database of the test's own."""

    def run(*arguments: str, text: str = "", **environment: str) -> Any:
        return taskflow(
            *arguments,
            text=text,
            **{"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY, **environment},
        )

    return run
