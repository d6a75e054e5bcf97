"""The other commands: migrate, users, openapi, seed-demo, version."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import URL, make_url
from structlog.testing import capture_logs

from app import __version__
from app.main import create_app
from tests.cli.support import AddUsers, Run, taskflow
from tests.conftest import NewDatabase
from tests.faults.commits import let_commits_fail
from tests.support import (
    CLEAN_ENVIRONMENT,
    SERVICE_DEFAULTS,
    TASKFLOW,
    as_environment,
    blocking_client,
    run_sql,
    served,
    service_settings,
)

PASSWORD = "a good long password"


def create(run: Run, name: str, *, password: str = PASSWORD) -> Any:
    return run(
        "users", "create", name, f"{name}@example.com", "--password-stdin", text=password + "\n"
    )


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    form = {"grant_type": "password", "username": name, "password": password}
    return client.post("/api/v1/auth/token", data=form)


@contextmanager
def serving(database_url: str) -> Iterator[httpx.Client]:
    """A client of a service on the database."""
    with (
        served(create_app(service_settings(database_url))) as base_url,
        blocking_client(base_url) as client,
    ):
        yield client


def test_migrate_brings_an_empty_database_up_to_date_and_can_be_repeated(
    new_empty_database: NewDatabase,
) -> None:
    url = new_empty_database()
    for _ in range(2):
        done = taskflow("migrate", DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        assert "up to date" in done.stdout
    assert "id" in taskflow("users", "list", DATABASE_URL=url).stdout


def test_a_package_without_its_migrations_says_how_to_install_it(
    new_empty_database: NewDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("app.db.migrations.CONFIGURATION", tmp_path / "alembic.ini")
    done = taskflow("migrate", DATABASE_URL=new_empty_database())
    assert done.returncode == 1
    assert done.stderr.startswith("taskflow: there are no migrations beside the package")


def test_a_user_is_created_listed_and_can_log_in(run: Run, database_url: str) -> None:
    done = create(run, "ada")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Created user ada with id 1.\n"

    listed = run("users", "list").stdout
    assert "ada@example.com" in listed
    assert "argon2" not in listed
    with serving(database_url) as client:
        assert log_in(client, "ada").status_code == 200


def test_what_a_command_logs_is_not_among_what_it_was_asked_for(database_url: str) -> None:
    done = subprocess.run(
        [TASKFLOW, "users", "create", "ada", "ada@example.com", "--password-stdin"],
        env=CLEAN_ENVIRONMENT
        | as_environment(SERVICE_DEFAULTS)
        | {"ENVIRONMENT": "testing", "DATABASE_URL": database_url, "LOG_FORMAT": "json"},
        input=PASSWORD + "\n",
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "Created user ada with id 1.\n"
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["event"] == "account_registered"


@pytest.mark.parametrize(
    ("name", "password", "complaint"),
    [
        ("ada", PASSWORD, "Username already exists"),
        ("ADA", PASSWORD, "Username already exists"),
        ("a b", PASSWORD, "username:"),
        ("bob", "short", "password: The password must have at least 6 characters"),
        ("bob", "x" * 129, "password:"),
    ],
)
def test_a_user_that_cannot_be_made_is_refused_in_words(
    run: Run, name: str, password: str, complaint: str
) -> None:
    create(run, "ada")
    done = create(run, name, password=password)

    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert password not in done.stderr


def test_deactivating_holds_at_once_and_activating_lets_in_again(
    run: Run, database_url: str
) -> None:
    create(run, "ada")
    with serving(database_url) as client:
        client.headers["Authorization"] = f"Bearer {log_in(client, 'ada').json()['access_token']}"
        assert client.get("/api/v1/tasks").status_code == 200
        made = client.post("/api/v1/api-keys", json={"name": "m", "scopes": ["tasks:read"]})
        key = {"Authorization": f"Bearer {made.json()['data']['key']}"}
        assert client.get("/api/v1/tasks", headers=key).status_code == 200
        with capture_logs() as lines:
            assert run("users", "deactivate", "ADA@example.com").returncode == 0
        assert [line["event"] for line in lines] == ["account_deactivated"]
        assert client.get("/api/v1/tasks").status_code == 401
        assert client.post("/api/v1/tasks", json={"title": "x"}).status_code == 401
        assert client.get("/api/v1/tasks", headers=key).status_code == 401
        assert log_in(client, "ada").status_code == 400
        assert "no" in run("users", "list").stdout

        with capture_logs() as lines:
            assert run("users", "activate", "ada").returncode == 0
        assert [line["event"] for line in lines] == ["account_activated"]
        assert client.get("/api/v1/tasks").status_code == 401
        assert client.get("/api/v1/tasks", headers=key).status_code == 401
        assert log_in(client, "ada").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "event"),
    [
        (["create", "bob", "bob@example.com", "--password-stdin"], "account_registered"),
        (["deactivate", "ada"], "account_deactivated"),
        (["activate", "ada"], "account_activated"),
        (["set-password", "ada", "--password-stdin"], "password_changed"),
    ],
)
def test_what_a_command_does_is_in_the_audit_trail_only_if_it_is_committed(
    run: Run, add_users: AddUsers, database_url: str, arguments: list[str], event: str
) -> None:
    add_users("ada")
    let_commits_fail(database_url, "users")
    with capture_logs() as lines:
        failed = run("users", *arguments, text=PASSWORD + "\n")
        assert lines == []
        run_sql(database_url, "DROP TRIGGER fail ON users")
        done = run("users", *arguments, text=PASSWORD + "\n")

    assert (failed.returncode, failed.stdout) == (1, "")
    assert done.returncode == 0, done.stderr
    assert [line["event"] for line in lines] == [event]


def test_a_new_password_replaces_the_old_and_ends_the_logins(run: Run, database_url: str) -> None:
    create(run, "ada")
    with serving(database_url) as client:
        client.headers["Authorization"] = f"Bearer {log_in(client, 'ada').json()['access_token']}"
        done = run("users", "set-password", "ada", "--password-stdin", text="another password\n")
        assert done.returncode == 0, done.stderr

        assert client.get("/api/v1/users/me").status_code == 401
        assert log_in(client, "ada").status_code == 400
        assert log_in(client, "ada", "another password").status_code == 200


def test_a_password_against_the_policy_is_not_set(run: Run, database_url: str) -> None:
    create(run, "ada")
    done = run("users", "set-password", "ada", "--password-stdin", text="short\n")

    assert done.returncode == 1
    assert "at least 6 characters" in done.stderr
    with serving(database_url) as client:
        assert log_in(client, "ada").status_code == 200


def test_a_password_that_nobody_could_log_in_with_is_not_set(run: Run) -> None:
    create(run, "ada")
    done = run("users", "set-password", "ada", "--password-stdin", text="x" * 129 + "\n")

    assert done.returncode == 1
    assert done.stderr == "taskflow: password: Input should have at most 128 characters\n"


def test_a_line_that_ends_as_on_windows_is_a_line(run: Run, database_url: str) -> None:
    done = run(
        "users", "create", "ada", "a@example.com", "--password-stdin", text=PASSWORD + "\r\n"
    )
    assert done.returncode == 0
    with serving(database_url) as client:
        assert log_in(client, "ada").status_code == 200


def test_arguments_that_are_no_text_are_told_in_words(run: Run) -> None:
    done = run("users", "deactivate", "a\udcff")

    assert done.returncode == 1
    assert done.stderr == "taskflow: arguments and passwords must be in UTF-8.\n"


@pytest.mark.parametrize("command", ["activate", "deactivate"])
def test_an_unknown_user_is_told_in_words(run: Run, command: str) -> None:
    done = run("users", command, "nobody")

    assert done.returncode == 1
    assert done.stderr == "taskflow: there is no user 'nobody'\n"


def test_production_refuses_to_start_and_names_every_fault_without_a_traceback() -> None:
    for command in ("serve", "migrate"):
        done = taskflow(command, ENVIRONMENT="production", PORT="eighty")

        assert done.returncode == 1
        for name in ("DATABASE_URL", "SECRET_KEY", "PORT"):
            assert f"  {name} " in done.stderr
        assert "Traceback" not in done.stderr + done.stdout


def test_a_database_that_does_not_answer_is_told_in_words() -> None:
    done = taskflow("users", "list", DATABASE_URL="postgresql://ada:hunter2@127.0.0.1:1/none")

    assert done.returncode == 1
    assert done.stderr == (
        "taskflow: the database does not answer. Check DATABASE_URL and the server.\n"
    )


@pytest.mark.direct
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda url: url.set(password="hunter2"), "the database does not let this user in."),
        (lambda url: url.set(database="nowhere"), "the server has no database of this name."),
    ],
)
def test_a_database_that_does_not_let_us_in_is_told_in_words(
    run: Run, database_url: str, wrong: Callable[[URL], URL], told: str
) -> None:
    address = wrong(make_url(database_url)).render_as_string(hide_password=False)
    done = run("users", "list", DATABASE_URL=address)

    assert done.returncode == 1
    assert done.stderr.startswith(f"taskflow: {told}")
    assert "hunter2" not in done.stderr


def test_a_database_that_was_never_migrated_is_told_in_words(
    new_empty_database: NewDatabase,
) -> None:
    done = taskflow("users", "list", DATABASE_URL=new_empty_database())

    assert done.returncode == 1
    assert done.stderr == (
        "taskflow: the database has no tables of taskflow. Make them with: taskflow migrate\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to a device of Linux")
def test_an_answer_that_cannot_be_written_is_not_blamed_on_the_database() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [TASKFLOW, "version"],
            env=CLEAN_ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode
    assert done.stderr.startswith("taskflow: No space left on device.\n")
    assert "database" not in done.stderr


def test_a_command_without_standard_input_and_output_ends_well(run: Run, database_url: str) -> None:
    create(run, "ada")
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" <&- >&-', TASKFLOW, "tasks", "export", "--user", "ada"],
        env=CLEAN_ENVIRONMENT
        | as_environment(SERVICE_DEFAULTS)
        | {"ENVIRONMENT": "testing", "DATABASE_URL": database_url},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert done.stderr.endswith("Tasks exported: 0.\n")
    assert "Traceback" not in done.stderr


def test_outside_development_a_database_has_to_be_named() -> None:
    done = taskflow("users", "list")

    assert done.returncode == 1
    assert "DATABASE_URL is required outside development" in done.stderr


def test_the_document_is_printed_without_a_database(base_url: str) -> None:
    done = taskflow("openapi")

    assert done.returncode == 0, done.stderr
    with blocking_client(base_url) as client:
        assert json.loads(done.stdout) == client.get("/openapi.json").json()


def test_the_version_is_printed() -> None:
    assert taskflow("version").stdout == f"{__version__}\n"


def test_the_demo_account_is_made_once_and_topped_up(run: Run, database_url: str) -> None:
    first = run("seed-demo", "--tasks", "30")
    assert first.returncode == 0, first.stderr
    assert "Tasks added: 30." in first.stdout
    assert "Seeding tasks" in first.stderr
    assert "Tasks added: 0." in run("seed-demo", "--tasks", "30").stdout
    assert "Tasks added: 15." in run("seed-demo", "--tasks", "45").stdout

    with serving(database_url) as client:
        token = log_in(client, "demo", "demo-password").json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        page = client.get("/api/v1/tasks?per_page=100", headers=headers).json()["data"]
    assert page["total"] == 45
    assert len({task["title"] for task in page["tasks"]}) == 45
    assert len({task["status"] for task in page["tasks"]}) == 4


def test_the_demo_account_is_not_made_in_production(run: Run) -> None:
    done = run("seed-demo", ENVIRONMENT="production")

    assert done.returncode == 1
    assert "not made in production" in done.stderr
    assert "demo" not in run("users", "list").stdout


def test_a_stranger_called_demo_is_left_alone(run: Run) -> None:
    password = "stranger's password"
    run("users", "create", "demo", "me@example.org", "--password-stdin", text=password + "\n")
    done = run("seed-demo")

    assert done.returncode == 1
    assert "who is not the demo account" in done.stderr


def test_a_policy_that_forbids_the_demo_password_is_told_in_words(run: Run) -> None:
    done = run("seed-demo", PASSWORD_MIN_LENGTH="20")

    assert done.returncode == 1
    assert "at least 20 characters" in done.stderr
