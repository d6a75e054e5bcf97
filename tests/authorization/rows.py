"""How each operation is called rightly: the rows of the authorisation matrix."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.support import PASSWORD, Account

API = "/api/v1"
# Stands in everything that a row's owner has made, and must stand in no answer to another.
MARK = "only-the-owner-knows"


@dataclass(frozen=True)
class Call:
    """A request that succeeds for its owner."""

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)
    # What another account gets that sends the same request. None: what the document promises.
    foreign: int | None = None


Row = Callable[[Account], Awaitable[Call]]


async def _task_path(owner: Account) -> str:
    task = await owner.create_task(title=MARK)
    return f"{API}/tasks/{task['id']}"


async def read_liveness(_: Account) -> Call:
    return Call("GET", "/health")


async def read_readiness(_: Account) -> Call:
    return Call("GET", "/health/ready")


async def create_user(_: Account) -> Call:
    name = f"new-{uuid4().hex[:16]}"
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    return Call("POST", f"{API}/users", {"json": body})


async def create_token(owner: Account) -> Call:
    form = {"grant_type": "password", "username": owner.username, "password": PASSWORD}
    return Call("POST", f"{API}/auth/token", {"data": form})


async def revoke_token(_: Account) -> Call:
    return Call("POST", f"{API}/auth/revoke", {"data": {"token": "unknown"}})


async def read_me(_: Account) -> Call:
    return Call("GET", f"{API}/users/me")


async def update_me(_: Account) -> Call:
    body = {"email": f"{uuid4().hex[:16]}@example.com"}
    return Call("PATCH", f"{API}/users/me", {"json": body})


async def change_password(_: Account) -> Call:
    body = {"current_password": PASSWORD, "new_password": "another horse"}
    return Call("POST", f"{API}/users/me/password", {"json": body})


async def close_account(_: Account) -> Call:
    return Call("POST", f"{API}/users/me/close", {"json": {"password": PASSWORD}})


async def create_api_key(_: Account) -> Call:
    # Without a scope that the credential lacks, which would be a 403 of another kind.
    return Call("POST", f"{API}/api-keys", {"json": {"name": MARK, "scopes": ["account:write"]}})


async def list_api_keys(owner: Account) -> Call:
    await owner.create_api_key(name=MARK)
    return Call("GET", f"{API}/api-keys")


async def delete_api_key(owner: Account) -> Call:
    key = await owner.create_api_key(name=MARK)
    return Call("DELETE", f"{API}/api-keys/{key['id']}", foreign=404)


async def create_task(_: Account) -> Call:
    return Call("POST", f"{API}/tasks", {"json": {"title": "Made by the call"}})


async def list_tasks(owner: Account) -> Call:
    await owner.create_task(title=MARK)
    return Call("GET", f"{API}/tasks")


async def read_task(owner: Account) -> Call:
    return Call("GET", await _task_path(owner), foreign=404)


async def update_task(owner: Account) -> Call:
    path = await _task_path(owner)
    return Call("PATCH", path, {"json": {"description": "Changed"}}, foreign=404)


async def delete_task(owner: Account) -> Call:
    return Call("DELETE", await _task_path(owner), foreign=404)


async def read_task_stats(owner: Account) -> Call:
    await owner.create_task(title=MARK)
    return Call("GET", f"{API}/tasks/stats")


async def export_tasks(owner: Account) -> Call:
    await owner.create_task(title=MARK)
    return Call("GET", f"{API}/tasks/export")


async def _trashed_task_path(owner: Account) -> str:
    path = await _task_path(owner)
    assert (await owner.client.delete(path)).status_code == 200
    return path


async def list_trash(owner: Account) -> Call:
    await _trashed_task_path(owner)
    return Call("GET", f"{API}/tasks/trash")


async def restore_task(owner: Account) -> Call:
    return Call("POST", f"{await _trashed_task_path(owner)}/restore", foreign=404)


async def put_task(owner: Account) -> Call:
    await owner.create_task(title=MARK, external_id="e")
    # Without the condition another account would make a task of its own under that name.
    options = {"json": {"title": "Replaced"}, "headers": {"If-Match": "*"}}
    return Call("PUT", f"{API}/tasks/external/e", options, foreign=412)


async def run_batch(owner: Account) -> Call:
    """Ids in a body say no more than ids in a path."""
    changed, trashed = [(await owner.create_task(title=MARK))["id"] for _ in range(2)]
    assert (await owner.client.delete(f"{API}/tasks/{trashed}")).status_code == 200
    operations = [
        {"op": "create", "task": {"title": "Made by the call"}},
        {"op": "update", "id": changed, "changes": {"description": "Changed"}},
        {"op": "delete", "id": trashed, "permanent": True},
    ]
    return Call("POST", f"{API}/tasks/batch", {"json": {"operations": operations}}, foreign=404)


# Operations that need no credential, and ignore one that is sent.
PUBLIC: dict[str, Row] = {
    row.__name__: row
    for row in (read_liveness, read_readiness, create_user, create_token, revoke_token)
}
SECURED: dict[str, Row] = {
    row.__name__: row
    for row in (
        read_me,
        update_me,
        change_password,
        close_account,
        create_api_key,
        list_api_keys,
        delete_api_key,
        create_task,
        list_tasks,
        read_task,
        update_task,
        delete_task,
        read_task_stats,
        export_tasks,
        list_trash,
        restore_task,
        put_task,
        run_batch,
    )
}
