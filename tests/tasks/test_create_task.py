"""POST /api/v1/tasks."""

import re
from typing import Any

import httpx
import pytest

from tests.support import Account, assert_error

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_a_task_is_created_with_defaults_and_can_be_read_where_location_says(
    alice: Account,
) -> None:
    response = await alice.client.post("/api/v1/tasks", json={"title": "Water the plants"})

    assert response.status_code == 201
    body = response.json()
    task = body["data"]
    assert (body["status"], body["message"]) == ("success", "Task created")
    assert INSTANT.fullmatch(task["created_at"])
    assert task == {
        "id": task["id"],
        "title": "Water the plants",
        "description": "",
        "status": "pending",
        "priority": "medium",
        "owner_id": alice.id,
        "tags": [],
        "due_at": None,
        "due_on": None,
        "completed_at": None,
        "external_id": None,
        "metadata": {},
        "version": 1,
        "created_at": task["created_at"],
        "updated_at": task["created_at"],
    }
    assert response.headers["Location"] == f"/api/v1/tasks/{task['id']}"
    read = await alice.client.get(response.headers["Location"])
    assert read.json()["data"] == task


async def test_every_field_is_kept_as_sent_but_for_the_trimmed_title(alice: Account) -> None:
    description = " ünïcödé 任务 \n\t🌱 'quoted'; DROP TABLE tasks; -- %_\\ "
    task = await alice.create_task(
        title="  Écoute\u2003", description=description, status="in_progress", priority="critical"
    )

    assert task["title"] == "Écoute"
    assert task["description"] == description
    assert (task["status"], task["priority"]) == ("in_progress", "critical")


async def test_a_task_created_as_completed_is_completed_from_the_start(alice: Account) -> None:
    task = await alice.create_task(status="completed")

    assert task["completed_at"] == task["created_at"]


async def test_the_longest_title_and_description_are_kept_whole(alice: Account) -> None:
    task = await alice.create_task(title="界" * 200, description="界" * 20_000)

    assert (task["title"], task["description"]) == ("界" * 200, "界" * 20_000)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body.title": "missing"}),
        ({"title": ""}, {"body.title": "too_short"}),
        ({"title": " \t\n\u3000"}, {"body.title": "too_short"}),
        ({"title": "\u200b\u2060\x1f"}, {"body.title": "too_short"}),
        ({"title": "x" * 201}, {"body.title": "too_long"}),
        ({"title": 7}, {"body.title": "wrong_type"}),
        ({"title": None}, {"body.title": "wrong_type"}),
        ({"title": ["x"]}, {"body.title": "wrong_type"}),
        ({"title": "a\x00b"}, {"body.title": "invalid"}),
        ({"title": "x", "description": "a\x00b"}, {"body.description": "invalid"}),
        ({"title": "x", "description": "x" * 20_001}, {"body.description": "too_long"}),
        ({"title": "x", "description": None}, {"body.description": "wrong_type"}),
        ({"title": "x", "status": "done"}, {"body.status": "invalid"}),
        ({"title": "x", "status": None}, {"body.status": "wrong_type"}),
        ({"title": "x", "status": "PENDING"}, {"body.status": "invalid"}),
        ({"title": "x", "priority": 3}, {"body.priority": "wrong_type"}),
        ({"title": "x", "owner_id": 1}, {"body.owner_id": "unknown"}),
        ({"title": "x", "id": 1}, {"body.id": "unknown"}),
        ({"titel": "x"}, {"body.title": "missing", "body.titel": "unknown"}),
        (
            {"title": "", "status": 1, "priority": "x"},
            {"body.title": "too_short", "body.status": "wrong_type", "body.priority": "invalid"},
        ),
    ],
)
async def test_a_field_that_breaks_the_schema_is_named_and_nothing_is_stored(
    alice: Account, body: dict[str, Any], fields: dict[str, str]
) -> None:
    response = await alice.client.post("/api/v1/tasks", json=body)

    assert_error(response, 400, "validation_failed", fields=fields)
    listed = await alice.client.get("/api/v1/tasks")
    assert listed.json()["data"]["total"] == 0


@pytest.mark.parametrize("body", ["[]", '[{"title": "x"}]', '"x"', "7", "null", "true"])
async def test_a_body_that_is_no_object_is_refused(alice: Account, body: str) -> None:
    response = await alice.client.post(
        "/api/v1/tasks", content=body, headers={"Content-Type": "application/json"}
    )

    assert_error(response, 400, "validation_failed", fields={"body": "wrong_type"})


async def test_an_error_never_holds_the_value_that_was_sent(alice: Account) -> None:
    secret = "hunter2-hunter2"
    response = await alice.client.post(
        "/api/v1/tasks", json={"title": secret * 20, "status": secret, "priority": [secret]}
    )

    assert response.status_code == 400
    assert secret not in response.text


async def test_hundreds_of_faults_give_a_short_answer_with_short_names(alice: Account) -> None:
    body = {f"{number}{'x' * 5000}": 1 for number in range(150)}
    response = await alice.client.post("/api/v1/tasks", json={"title": "x"} | body)

    assert response.status_code == 400
    assert len(response.json()["errors"]) == 50
    assert len(response.content) < 20_000


async def test_a_read_only_login_cannot_create(
    new_account: Any,
) -> None:
    reader: Account = await new_account(scopes=["tasks:read"])
    response = await reader.client.post("/api/v1/tasks", json={"title": "x"})

    assert_error(response, 403, "insufficient_scope")
    assert 'scope="tasks:write"' in response.headers["WWW-Authenticate"]


async def test_without_a_credential_the_answer_says_nothing_about_the_body(
    client: httpx.AsyncClient,
) -> None:
    for body in (b'{"title": ', b"", b"x" * 2_000_000):
        response = await client.post(
            "/api/v1/tasks", content=body, headers={"Content-Type": "text/plain"}
        )
        assert_error(response, 401, "unauthenticated")
