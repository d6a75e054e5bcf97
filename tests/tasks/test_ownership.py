"""Another's task is not there, on every operation."""

from tests.support import Account, assert_error


async def test_anothers_task_is_not_found_by_any_operation(alice: Account, bob: Account) -> None:
    task = await alice.create_task(title="Private")
    path = f"/api/v1/tasks/{task['id']}"

    answers = [
        await bob.client.get(path),
        await bob.client.head(path),
        await bob.client.patch(path, json={"title": "Mine"}),
        await bob.client.patch(path, json={}),
        await bob.client.delete(path),
    ]
    missing = await bob.client.get("/api/v1/tasks/999999999999")
    for answer in answers:
        assert answer.status_code == 404
    for answer in [answers[0], *answers[2:]]:
        assert_error(answer, 404, "task_not_found")
        # Not even the words differ from those for a task that does not exist.
        assert answer.json() | {"request_id": ""} == missing.json() | {"request_id": ""}
    read = await alice.client.get(path)
    assert read.json()["data"] == task


async def test_lists_and_totals_hold_the_callers_tasks_alone(alice: Account, bob: Account) -> None:
    await alice.create_task()
    await alice.create_task(status="completed")
    mine = await bob.create_task()

    for query in ("", "?status=pending", "?status=completed", "?page=2&per_page=1"):
        data = (await bob.client.get(f"/api/v1/tasks{query}")).json()["data"]
        assert data["total"] == (0 if "completed" in query else 1)
        assert {task["id"] for task in data["tasks"]} <= {mine["id"]}
