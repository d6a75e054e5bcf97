"""One structured line per request, and no secret in any of them."""

import io
import json
import re
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import structlog

from app.core.logging import NamedLogger
from tests.conftest import NewDatabase
from tests.support import SECRET_KEY, Account, blocking_client, running_service, until


async def test_each_request_leaves_one_line_with_its_template_and_its_user(
    alice: Account, client: httpx.AsyncClient, log_lines: list[dict[str, Any]]
) -> None:
    task = await alice.create_task()
    await alice.client.get(f"/api/v1/tasks/{task['id']}", headers={"X-Request-ID": "abc.1"})
    await client.get("/nowhere/secret-path?token=secret")
    await client.head("/health")

    # A line comes after its answer.
    await until(lambda: log_lines[-1]["method"] == "HEAD")
    first, second, third = (line for line in log_lines if line["method"] != "POST")
    duration = first.pop("duration_ms")
    assert 0 < duration < 30_000
    assert first == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "route": "/api/v1/tasks/{task_id}",
        "status": 200,
        "user_id": alice.id,
        "request_id": "abc.1",
        "address": "127.0.0.1",
    }
    assert (second["route"], second["status"], second["user_id"]) == (None, 404, None)
    assert re.fullmatch(r"[0-9a-f]{32}", second["request_id"])
    assert "secret" not in str(second)
    assert (third["method"], third["route"], third["status"]) == ("HEAD", "/health", 200)


@pytest.mark.long
def test_in_production_every_line_is_json_and_none_holds_a_secret(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    database_password = urlsplit(url).password
    with running_service(url) as service, blocking_client(service.base_url) as client:
        name = {"username": "logged", "email": "logged@example.com"}
        password = "a-password-nobody-knows"
        client.post("/api/v1/users", json=name | {"password": password})
        form = {"grant_type": "password", "username": "logged", "password": password}
        token = client.post("/api/v1/auth/token", data=form).json()["access_token"]
        wrong = {**form, "password": "another-password"}
        client.post("/api/v1/auth/token", data=wrong)
        headers = {"Authorization": f"Bearer {token}"}
        client.post("/api/v1/tasks", json={"title": "private title"}, headers=headers)
        client.get(f"/api/v1/tasks?token={token}", headers=headers)
        client.get(f"/{token}")
    output = service.output()

    lines = [json.loads(line) for line in output.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests if line["route"] != "/health/ready"] == [
        201,
        200,
        400,
        201,
        400,
        404,
    ]
    for line in requests:
        assert line.keys() >= {"method", "route", "status", "duration_ms", "request_id", "user_id"}
    for secret in (
        password,
        "another-password",
        token,
        SECRET_KEY,
        database_password,
        "private title",
        "argon2",
    ):
        assert secret is None or secret not in output


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_unhandled_error_is_logged_with_its_traceback_and_without_local_variables(
    form: str,
) -> None:
    program = (
        "import logging, structlog; from app.core.logging import configure_logging\n"
        f"configure_logging(level='INFO', form={form!r})\n"
        "def work(password):\n"
        "    password = password.upper()\n"
        "    raise ValueError('what broke')\n"
        "try: work('hun' + 'ter2')\n"
        "except ValueError:\n"
        "    structlog.stdlib.get_logger('x').exception('unhandled error')\n"
        "    logging.getLogger('uvicorn.error').exception('from the standard library')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.count("what broke") >= 2
    # Where it was raised, in both.
    assert len(re.findall(r"(in work|\"name\": ?\"work\")", done.stdout)) == 2
    assert "from the standard library" in done.stdout
    assert "hunter2" not in done.stdout.lower()
    if form == "json":
        events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        assert events == ["unhandled error", "from the standard library"]


def test_structlog_is_left_as_it_was_found(log_lines: list[dict[str, Any]]) -> None:
    structlog.stdlib.get_logger("taskflow.request").info("probe")

    assert [line["event"] for line in log_lines] == ["probe"]


def test_a_line_that_its_file_has_no_characters_for_is_written_with_escapes() -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="ascii") as file:
        NamedLogger("test", file).info("Café")
        line = written.getvalue()

    assert line == b"Caf\\xe9\n"
