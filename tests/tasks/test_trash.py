"""The trash: listing it, taking tasks out of it, and emptying it."""

import asyncio
from typing import Any

import pytest

from tests.support import Account, assert_error


async def trash_of(account: Account, **query: Any) -> dict[str, Any]:
    response = await account.client.get("/api/v1/tasks/trash", params=query)
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()["data"]
    return data


def path_of(task: dict[str, Any]) -> str:
    return f"/api/v1/tasks/{task['id']}"


async def trashed_task(account: Account, **fields: Any) -> dict[str, Any]:
    task = await account.create_task(**fields)
    assert (await account.client.delete(path_of(task))).status_code == 200
    return task


async def test_a_deleted_task_is_in_the_trash_of_its_owner_alone(
    alice: Account, bob: Account
) -> None:
    await alice.create_task()
    task = await trashed_task(alice, tags=["a"], metadata={"a": 1}, status="completed")

    data = await trash_of(alice)
    (trashed,) = data["tasks"]
    assert trashed == task | {
        "version": 2,
        "updated_at": trashed["deleted_at"],
        "deleted_at": trashed["deleted_at"],
    }
    assert trashed["deleted_at"] > task["updated_at"]
    assert data | {"tasks": []} == {
        "tasks": [],
        "total": 1,
        "page": 1,
        "pages": 1,
        "next_cursor": None,
    }
    assert (await trash_of(bob))["total"] == 0
    assert (await alice.client.get("/api/v1/tasks")).json()["data"]["total"] == 1


async def test_the_newest_deletion_comes_first_by_pages_and_by_cursors(alice: Account) -> None:
    created = [await alice.create_task(title=f"{number}") for number in range(7)]
    order = [3, 0, 6, 1, 5, 2, 4]
    for number in order:
        await alice.client.delete(path_of(created[number]))
    expected = [f"{number}" for number in reversed(order)]

    pages = [await trash_of(alice, per_page=3, page=page) for page in (1, 2, 3)]
    assert [task["title"] for page in pages for task in page["tasks"]] == expected
    assert {(page["total"], page["pages"]) for page in pages} == {(7, 3)}
    walk = await trash_of(alice, per_page=3, count="false")
    titles = [task["title"] for task in walk["tasks"]]
    while walk["next_cursor"]:
        # What is deleted meanwhile is newer than all that is still to come.
        await trashed_task(alice, title="new")
        walk = await trash_of(alice, per_page=3, cursor=walk["next_cursor"])
        titles += [task["title"] for task in walk["tasks"]]
    assert titles == expected
    links = (await alice.client.get("/api/v1/tasks/trash?per_page=3")).headers["Link"]
    assert '</api/v1/tasks/trash?per_page=3&page=2>; rel="next"' in links


@pytest.mark.parametrize("name", ["status", "q", "sort", "time_zone", "deleted_after"])
async def test_the_trash_has_no_filters(alice: Account, name: str) -> None:
    response = await alice.client.get("/api/v1/tasks/trash", params={name: "x"})
    assert_error(response, 400, "validation_failed", fields={f"query.{name}": "unknown"})


async def test_a_restored_task_is_back_as_it_was_and_that_is_a_change(alice: Account) -> None:
    task = await trashed_task(alice, external_id="e", tags=["a"], status="completed")

    response = await alice.client.post(f"{path_of(task)}/restore")
    assert response.status_code == 200
    restored = response.json()["data"]
    assert restored == task | {"version": 3, "updated_at": restored["updated_at"]}
    assert restored["updated_at"] > task["updated_at"]
    assert (await alice.client.get(path_of(task))).json()["data"] == restored
    assert (await trash_of(alice))["tasks"] == []
    # A live task stays as it is.
    again = await alice.client.post(f"{path_of(task)}/restore")
    assert (again.status_code, again.json()["data"]) == (200, restored)


async def test_a_task_whose_external_id_is_taken_by_now_stays_in_the_trash(alice: Account) -> None:
    task = await trashed_task(alice, external_id="e")
    other = await alice.create_task(external_id="e")

    response = await alice.client.post(f"{path_of(task)}/restore")
    assert_error(response, 409, "external_id_taken")
    assert [one["id"] for one in (await trash_of(alice))["tasks"]] == [task["id"]]
    await alice.client.delete(f"{path_of(other)}?permanent=true")
    assert (await alice.client.post(f"{path_of(task)}/restore")).status_code == 200


async def test_what_is_not_there_cannot_be_restored(alice: Account, bob: Account) -> None:
    task = await trashed_task(alice)
    for account, path in (
        (bob, path_of(task)),
        (alice, "/api/v1/tasks/999999999"),
        (alice, "/api/v1/tasks/abc"),
    ):
        assert_error(await account.client.post(f"{path}/restore"), 404, "task_not_found")
    await alice.client.delete(f"{path_of(task)}?permanent=true")
    response = await alice.client.post(f"{path_of(task)}/restore")
    assert_error(response, 404, "task_not_found")


async def test_of_many_restorations_at_once_the_task_changes_by_one(alice: Account) -> None:
    task = await trashed_task(alice)
    responses = await asyncio.gather(
        *(alice.client.post(f"{path_of(task)}/restore") for _ in range(6))
    )

    assert {response.json()["data"]["version"] for response in responses} == {3}
