"""Batches as tests write them."""

from typing import Any

import httpx

from tests.support import Account


def create(**task: Any) -> dict[str, Any]:
    return {"op": "create", "task": task}


def update(task_id: int, *, version: Any = ..., **changes: Any) -> dict[str, Any]:
    given = {} if version is ... else {"version": version}
    return {"op": "update", "id": task_id, "changes": changes} | given


def delete(task_id: int, **options: Any) -> dict[str, Any]:
    return {"op": "delete", "id": task_id} | options


async def run(account: Account, *operations: Any, **options: Any) -> httpx.Response:
    body = {"operations": operations} | options
    return await account.client.post("/api/v1/tasks/batch", json=body)


def results(response: httpx.Response) -> list[dict[str, Any]]:
    """What became of each operation, in order."""
    assert response.status_code == 200, response.text
    each: list[dict[str, Any]] = response.json()["data"]["results"]
    assert [one["index"] for one in each] == list(range(len(each)))
    return each
