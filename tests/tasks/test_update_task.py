"""PATCH /api/v1/tasks/{id}."""

import asyncio
from typing import Any

import pytest

from tests.support import Account, assert_error


async def patched(account: Account, task_id: int, changes: dict[str, Any]) -> dict[str, Any]:
    response = await account.client.patch(f"/api/v1/tasks/{task_id}", json=changes)
    assert response.status_code == 200, response.text
    assert response.json()["message"] == "Task updated"
    task: dict[str, Any] = response.json()["data"]
    return task


async def test_only_the_fields_in_the_body_change(alice: Account) -> None:
    task = await alice.create_task(description="Keep me", priority="high")

    changed = await patched(alice, task["id"], {"title": " New title "})
    assert changed == task | {
        "title": "New title",
        "version": 2,
        "updated_at": changed["updated_at"],
    }
    assert changed["updated_at"] > task["updated_at"]
    read = await alice.client.get(f"/api/v1/tasks/{task['id']}")
    assert read.json()["data"] == changed


@pytest.mark.parametrize(
    "changes", [{}, {"title": "Same"}, {"title": " Same "}, {"status": "pending", "title": "Same"}]
)
async def test_a_patch_that_changes_nothing_keeps_the_version(
    alice: Account, changes: dict[str, Any]
) -> None:
    task = await alice.create_task(title="Same")

    assert await patched(alice, task["id"], changes) == task


async def test_completing_and_reopening_move_completed_at(alice: Account) -> None:
    task = await alice.create_task()

    completed = await patched(alice, task["id"], {"status": "completed"})
    assert completed["completed_at"] == completed["updated_at"]
    again = await patched(alice, task["id"], {"status": "completed", "title": "Renamed"})
    assert again["completed_at"] == completed["completed_at"]
    reopened = await patched(alice, task["id"], {"status": "in_progress"})
    assert reopened["completed_at"] is None


async def test_merge_patch_is_a_media_type_of_the_call(alice: Account) -> None:
    task = await alice.create_task()
    response = await alice.client.patch(
        f"/api/v1/tasks/{task['id']}",
        content=b'{"priority": "low"}',
        headers={"Content-Type": "application/merge-patch+json"},
    )

    assert response.status_code == 200
    assert response.json()["data"]["priority"] == "low"


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"title": None}, {"body.title": "wrong_type"}),
        ({"title": "  "}, {"body.title": "too_short"}),
        ({"description": None}, {"body.description": "wrong_type"}),
        ({"status": None}, {"body.status": "wrong_type"}),
        ({"priority": None}, {"body.priority": "wrong_type"}),
        ({"version": 1}, {"body.version": "unknown"}),
        ({"owner_id": 1}, {"body.owner_id": "unknown"}),
        ({"completed_at": None}, {"body.completed_at": "unknown"}),
        ({"title": "x", "prio": "low"}, {"body.prio": "unknown"}),
    ],
)
async def test_a_patch_with_a_fault_changes_nothing(
    alice: Account, changes: dict[str, Any], fields: dict[str, str]
) -> None:
    task = await alice.create_task()
    response = await alice.client.patch(f"/api/v1/tasks/{task['id']}", json=changes)

    assert_error(response, 400, "validation_failed", fields=fields)
    read = await alice.client.get(f"/api/v1/tasks/{task['id']}")
    assert read.json()["data"] == task


async def test_a_task_that_is_not_there_is_not_found(alice: Account) -> None:
    for task_id in ("999999999999", "abc", "99999999999999999999"):
        response = await alice.client.patch(f"/api/v1/tasks/{task_id}", json={"title": "x"})
        assert_error(response, 404, "task_not_found")


async def test_concurrent_patches_of_different_fields_are_both_kept(alice: Account) -> None:
    for round_number in range(10):
        task = await alice.create_task()
        changes = [
            {"title": f"Title {round_number}"},
            {"description": f"Description {round_number}"},
            {"status": "completed"},
            {"priority": "critical"},
        ]
        await asyncio.gather(*(patched(alice, task["id"], change) for change in changes))

        read = (await alice.client.get(f"/api/v1/tasks/{task['id']}")).json()["data"]
        assert read["version"] == 5
        assert {name: read[name] for change in changes for name in change} == {
            name: value for change in changes for name, value in change.items()
        }


async def test_updated_at_rises_with_every_version_also_when_patches_meet(alice: Account) -> None:
    task = await alice.create_task()
    changed = await asyncio.gather(
        *(patched(alice, task["id"], {"title": f"{number}"}) for number in range(30))
    )

    in_order = sorted(changed, key=lambda one: one["version"])
    assert [one["version"] for one in in_order] == list(range(2, 32))
    instants = [one["updated_at"] for one in in_order]
    assert instants == sorted(set(instants))
