"""GET /api/v1/tasks/{id}."""

import pytest

from tests.support import Account, assert_error


async def test_a_task_is_read_as_it_was_created(alice: Account) -> None:
    task = await alice.create_task(title="Read me")
    response = await alice.client.get(f"/api/v1/tasks/{task['id']}")

    assert response.status_code == 200
    assert response.json() == {"status": "success", "message": "ok", "data": task}
    assert response.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(
    "task_id",
    [
        "999999999999",
        "9007199254740991",
        "9007199254740992",
        "9223372036854775808",
        "99999999999999999999999999999999",
        "0",
        "-1",
        "01",
        "+1",
        "1.0",
        "1e3",
        "1_000",
        "abc",
        "null",
        "%00",
        "%F0%9F%8C%B1",
        "%D9%A1",
        "%FF",
        "1%20",
        "x" * 3000,
    ],
)
async def test_what_is_no_task_of_ones_own_is_not_found(alice: Account, task_id: str) -> None:
    response = await alice.client.get(f"/api/v1/tasks/{task_id}")

    assert_error(response, 404, "task_not_found")


async def test_an_unknown_parameter_is_refused_by_name(alice: Account) -> None:
    task = await alice.create_task()
    response = await alice.client.get(f"/api/v1/tasks/{task['id']}?fields=title")

    assert_error(response, 400, "validation_failed", fields={"query.fields": "unknown"})


async def test_head_answers_as_get_without_a_body(alice: Account) -> None:
    task = await alice.create_task()
    got = await alice.client.get(f"/api/v1/tasks/{task['id']}")
    head = await alice.client.head(f"/api/v1/tasks/{task['id']}")

    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
