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


async def test_nothing_of_another_can_be_found_counted_or_inferred(
    alice: Account, bob: Account
) -> None:
    secret = {"title": "Private heron", "external_id": "crm/7", "tags": ["heron"]}
    tasks = [await alice.create_task(**secret), await alice.create_task(title="Another heron")]
    await bob.create_task(title="Bob's own")
    trashed = await alice.create_task(title="Old heron")
    await alice.client.delete(f"/api/v1/tasks/{trashed['id']}")

    for query in ("q=heron", "tag=heron", "external_id=crm/7", "q=her"):
        assert (await bob.client.get(f"/api/v1/tasks?{query}")).json()["data"]["total"] == 0
        stats = (await bob.client.get(f"/api/v1/tasks/stats?{query}")).json()["data"]
        assert stats["total"] == 0
    assert (await bob.client.get("/api/v1/tasks/stats")).json()["data"]["total"] == 1
    assert (await bob.client.get("/api/v1/tasks/trash")).json()["data"]["total"] == 0
    restored = await bob.client.post(f"/api/v1/tasks/{trashed['id']}/restore")
    assert_error(restored, 404, "task_not_found")
    for_good = await bob.client.delete(f"/api/v1/tasks/{trashed['id']}?permanent=true")
    assert_error(for_good, 404, "task_not_found")

    # A cursor opens nothing but its owner's list.
    cursor = (await alice.client.get("/api/v1/tasks?per_page=1")).json()["data"]["next_cursor"]
    opened = await bob.client.get(f"/api/v1/tasks?per_page=1&cursor={cursor}")
    assert_error(opened, 400, "validation_failed", fields={"query.cursor": "invalid"})

    # An ETag that is right tells no more than one that is wrong.
    path = f"/api/v1/tasks/{tasks[0]['id']}"
    for etag in (f'"{tasks[0]["id"]}-1"', '"0-0"'):
        for answer in (
            await bob.client.get(path, headers={"If-None-Match": etag}),
            await bob.client.patch(path, json={"title": "x"}, headers={"If-Match": etag}),
            await bob.client.delete(path, headers={"If-Match": etag}),
        ):
            assert_error(answer, 404, "task_not_found")

    # An external id and an idempotency key that another has are free.
    taken = await bob.client.post("/api/v1/tasks", json={"title": "Mine", "external_id": "crm/7"})
    assert taken.status_code == 201
    put = await bob.client.put("/api/v1/tasks/external/crm%2F7", json={"title": "Still mine"})
    assert put.json()["data"]["id"] == taken.json()["data"]["id"]
    key = {"Idempotency-Key": "the-same"}
    answers = [
        await account.client.post("/api/v1/tasks", json={"title": "Same"}, headers=key)
        for account in (alice, bob)
    ]
    assert [answer.json()["data"]["owner_id"] for answer in answers] == [alice.id, bob.id]
    assert not [answer for answer in answers if "Idempotent-Replayed" in answer.headers]

    # An id in a body is no way in either.
    for operation in (
        {"op": "update", "id": tasks[0]["id"], "changes": {"title": "x"}},
        {"op": "delete", "id": tasks[0]["id"]},
        {"op": "delete", "id": tasks[0]["id"], "permanent": True},
        {"op": "update", "id": tasks[0]["id"], "version": 1, "changes": {}},
    ):
        body = {"atomic": False, "operations": [operation]}
        (result,) = (await bob.client.post("/api/v1/tasks/batch", json=body)).json()["data"][
            "results"
        ]
        assert (result["status"], result["error"]["code"]) == (404, "task_not_found")
    for task in tasks:
        read = await alice.client.get(f"/api/v1/tasks/{task['id']}")
        assert read.json()["data"] == task
