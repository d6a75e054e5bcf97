"""DELETE /api/v1/tasks/{id}."""

import asyncio

from tests.support import Account, assert_error


async def test_a_deleted_task_is_gone_from_every_call(alice: Account) -> None:
    task = await alice.create_task()
    path = f"/api/v1/tasks/{task['id']}"

    deleted = await alice.client.delete(path)
    assert deleted.status_code == 200
    assert deleted.json() == {"status": "success", "message": "Task deleted", "data": None}
    assert_error(await alice.client.get(path), 404, "task_not_found")
    assert_error(await alice.client.patch(path, json={"title": "x"}), 404, "task_not_found")
    assert_error(await alice.client.delete(path), 404, "task_not_found")
    listed = await alice.client.get("/api/v1/tasks")
    assert listed.json()["data"]["total"] == 0


async def test_of_many_deletions_at_once_one_succeeds(alice: Account) -> None:
    task = await alice.create_task()
    responses = await asyncio.gather(
        *(alice.client.delete(f"/api/v1/tasks/{task['id']}") for _ in range(10))
    )

    assert sorted(response.status_code for response in responses) == [200] + [404] * 9


async def test_what_is_no_task_is_not_found(alice: Account) -> None:
    for task_id in ("abc", "0", "99999999999999999999"):
        assert_error(await alice.client.delete(f"/api/v1/tasks/{task_id}"), 404, "task_not_found")


async def test_a_permanent_deletion_reaches_into_the_trash(alice: Account, bob: Account) -> None:
    for trashed_before in (False, True):
        task = await alice.create_task()
        path = f"/api/v1/tasks/{task['id']}"
        if trashed_before:
            await alice.client.delete(path)
        assert_error(await bob.client.delete(f"{path}?permanent=true"), 404, "task_not_found")
        deleted = await alice.client.delete(f"{path}?permanent=true")
        assert deleted.json() == {"status": "success", "message": "Task deleted", "data": None}
        assert_error(await alice.client.delete(f"{path}?permanent=true"), 404, "task_not_found")


async def test_permanent_is_true_or_false_and_nothing_else(alice: Account) -> None:
    task = await alice.create_task()
    path = f"/api/v1/tasks/{task['id']}"
    for value in ("1", "yes", "True", "", "on", "null"):
        response = await alice.client.delete(f"{path}?permanent={value}")
        assert_error(response, 400, "validation_failed", fields={"query.permanent": "wrong_type"})
    assert (await alice.client.get(path)).status_code == 200
