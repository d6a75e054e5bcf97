"""Random histories of one owner's tasks, from two devices, against the model of the contract.

Each device remembers the ETags that it saw last, which the other makes stale: every guarded write
is tried with a right and with a stale one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.core.settings import Settings
from app.db.session import Database
from tests.model.model import DEFAULTS, Task, Tasks, merged
from tests.model.strategies import (
    EXTERNAL_IDS,
    contents,
    creations,
    filters,
    moments,
    patches,
    sorts,
)
from tests.support import blocking_client, make_account

API = "/api/v1/tasks"
DEVICES = st.sampled_from(["phone", "laptop"])


def some_are_live(history: Any) -> bool:
    return bool(history.tasks.live)


def some_are_in_the_trash(history: Any) -> bool:
    return bool(history.tasks.trash)


class History(RuleBasedStateMachine):
    """One owner, whose every answer is compared to the model."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self.client = client
        self.tasks = Tasks()
        self.seen: dict[str, dict[int, str]] = {"phone": {}, "laptop": {}}
        self.keys: dict[str, tuple[Task, httpx.Response]] = {}

    # What the machine says and hears.

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        if body is None:
            return self.client.request(method, path, headers=headers)
        return self.client.request(method, path, json=body, headers=headers)

    def condition(self, device: str, task_id: int, *, guarded: bool) -> dict[str, str]:
        etag = self.seen[device].get(task_id)
        return {"If-Match": etag} if guarded and etag else {}

    def is_stale(self, condition: dict[str, str], task: Task) -> bool:
        return condition.get("If-Match", etag_of(task)) != etag_of(task)

    def take(self, device: str, response: httpx.Response) -> Task:
        """The task of an answer, which the device has seen from now on."""
        task: Task = response.json()["data"]
        assert response.headers["ETag"] == etag_of(task)
        self.seen[device][task["id"]] = etag_of(task)
        return task

    def some_live(self, number: int) -> Task:
        return list(self.tasks.live.values())[number % len(self.tasks.live)]

    def some_trashed(self, number: int) -> Task:
        return list(self.tasks.trash.values())[number % len(self.tasks.trash)]

    def check_change(self, before: Task, after: Task, wanted: Task) -> None:
        """The version, the moments and every field of a task after a write of `wanted`."""
        assert {name: after[name] for name in wanted} == wanted
        changed = wanted != {name: before[name] for name in wanted}
        assert after["version"] == before["version"] + changed
        assert (after["updated_at"] > before["updated_at"]) == changed
        assert after["created_at"] == before["created_at"]
        assert after["id"] == before["id"]
        if before["completed_at"] and after["status"] == "completed":
            assert after["completed_at"] == before["completed_at"]
        assert (after["completed_at"] is not None) == (after["status"] == "completed")

    # Writes.

    @rule(device=DEVICES, body=creations)
    def create(self, device: str, body: Task) -> None:
        response = self.send("POST", API, body)
        self.check_creation(device, body, response)

    def check_creation(self, device: str, body: Task, response: httpx.Response) -> None:
        if self.tasks.holder_of(body.get("external_id")):
            assert refusal(response) == (409, "external_id_taken")
            return
        assert response.status_code == 201, response.text
        task = self.take(device, response)
        assert response.headers["Location"] == f"{API}/{task['id']}"
        wanted = DEFAULTS | body
        assert {name: task[name] for name in wanted} == wanted
        assert task["version"] == 1
        assert (task["completed_at"] is not None) == (task["status"] == "completed")
        assert task["id"] not in self.tasks.live | self.tasks.trash
        self.tasks.live[task["id"]] = task

    @rule(device=DEVICES, body=creations, key=st.sampled_from(["k1", "k2"]))
    def create_safely(self, device: str, body: Task, key: str) -> None:
        headers = {"Idempotency-Key": key}
        response = self.send("POST", API, body, headers)
        if key in self.keys:
            first_body, first = self.keys[key]
            if first_body != body:
                assert refusal(response) == (422, "idempotency_key_reused")
                response = self.send("POST", API, first_body, headers)
            assert response.headers["Idempotent-Replayed"] == "true"
            assert (response.status_code, response.content) == (201, first.content)
            assert response.headers["Location"] == first.headers["Location"]
            assert response.headers["ETag"] == first.headers["ETag"]
            return
        assert "Idempotent-Replayed" not in response.headers
        self.check_creation(device, body, response)
        if response.is_success:
            self.keys[key] = (body, response)

    @precondition(some_are_live)
    @rule(device=DEVICES, number=st.integers(0, 99), patch=patches, guarded=st.booleans())
    def patch(self, device: str, number: int, patch: Task, guarded: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        before = self.some_live(number)
        condition = self.condition(device, before["id"], guarded=guarded)
        response = self.send("PATCH", f"{API}/{before['id']}", patch, condition)

        wanted = {name: before[name] for name in DEFAULTS | {"title": ""}}
        metadata = merged(wanted["metadata"], patch.get("metadata", {}))
        wanted |= patch | {"metadata": metadata}
        holder = self.tasks.holder_of(wanted["external_id"])
        if self.is_stale(condition, before):
            assert refusal(response) == (412, "version_conflict")
        elif wanted["due_at"] and wanted["due_on"]:
            assert refusal(response) == (400, "validation_failed")
        elif holder and holder["id"] != before["id"]:
            assert refusal(response) == (409, "external_id_taken")
        else:
            assert response.status_code == 200, response.text
            after = self.take(device, response)
            self.check_change(before, after, wanted)
            self.tasks.live[after["id"]] = after

    @rule(
        device=DEVICES,
        external_id=st.sampled_from(EXTERNAL_IDS),
        body=contents,
        only_create=st.booleans(),
        guarded=st.booleans(),
    )
    def put(
        self, device: str, external_id: str, body: Task, *, only_create: bool, guarded: bool
    ) -> None:
        before = self.tasks.holder_of(external_id)
        condition = self.condition(device, before["id"], guarded=guarded) if before else {}
        if only_create:
            condition = {"If-None-Match": "*"}
        path = f"{API}/external/{quote(external_id, safe='')}"
        response = self.send("PUT", path, body, condition)

        wanted = DEFAULTS | body | {"external_id": external_id}
        if before is None:
            self.check_creation(device, wanted, response)
        elif only_create or self.is_stale(condition, before):
            assert refusal(response) == (412, "version_conflict")
        else:
            assert response.status_code == 200, response.text
            after = self.take(device, response)
            self.check_change(before, after, wanted)
            self.tasks.live[after["id"]] = after

    @precondition(some_are_live)
    @rule(device=DEVICES, number=st.integers(0, 99), guarded=st.booleans())
    def delete(self, device: str, number: int, guarded: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        task = self.some_live(number)
        condition = self.condition(device, task["id"], guarded=guarded)
        response = self.send("DELETE", f"{API}/{task['id']}", headers=condition)
        if self.is_stale(condition, task):
            assert refusal(response) == (412, "version_conflict")
        else:
            assert response.json()["data"] is None
            del self.tasks.live[task["id"]]
            newest, *_ = self.trashed()
            assert newest == task | {
                "version": task["version"] + 1,
                "updated_at": newest["updated_at"],
            }
            assert newest["updated_at"] > task["updated_at"]
            self.tasks.trash[task["id"]] = newest

    @precondition(some_are_in_the_trash)
    @rule(device=DEVICES, number=st.integers(0, 99))
    def restore(self, device: str, number: int) -> None:
        before = self.some_trashed(number)
        response = self.send("POST", f"{API}/{before['id']}/restore")
        if self.tasks.holder_of(before["external_id"]):
            assert refusal(response) == (409, "external_id_taken")
        else:
            after = self.take(device, response)
            moved = {"version": before["version"] + 1, "updated_at": after["updated_at"]}
            assert after == before | moved
            assert after["updated_at"] > before["updated_at"]
            del self.tasks.trash[after["id"]]
            self.tasks.live[after["id"]] = after

    @precondition(some_are_live)
    @rule(device=DEVICES, number=st.integers(0, 99))
    def restore_what_is_live(self, device: str, number: int) -> None:
        task = self.some_live(number)
        response = self.send("POST", f"{API}/{task['id']}/restore")
        assert response.status_code == 200
        assert self.take(device, response) == task

    @precondition(some_are_in_the_trash)
    @rule(number=st.integers(0, 99))
    def remove_for_good(self, number: int) -> None:
        task = self.some_trashed(number)
        path = f"{API}/{task['id']}"
        for method in ("GET", "PATCH", "DELETE"):
            body = {"title": "x"} if method == "PATCH" else None
            assert refusal(self.send(method, path, body)) == (404, "task_not_found")
        assert self.send("DELETE", f"{path}?permanent=true").status_code == 200
        del self.tasks.trash[task["id"]]
        assert refusal(self.send("POST", f"{path}/restore")) == (404, "task_not_found")

    # Reads.

    @precondition(some_are_live)
    @rule(device=DEVICES, number=st.integers(0, 99))
    def read(self, device: str, number: int) -> None:
        task = self.some_live(number)
        etag = self.seen[device].get(task["id"], '"0-0"')
        response = self.send("GET", f"{API}/{task['id']}", headers={"If-None-Match": etag})
        assert response.headers["ETag"] == etag_of(task)
        if etag == etag_of(task):
            assert (response.status_code, response.content) == (304, b"")
        else:
            assert self.take(device, response) == task

    @rule(
        wanted=filters,
        sort=sorts,
        per_page=st.integers(1, 4),
        moment=st.none() | st.tuples(moments, st.integers(0, 99)),
    )
    def find(self, wanted: Task, sort: str, per_page: int, moment: tuple[str, int] | None) -> None:
        wanted = dict(wanted)
        if moment and self.tasks.live:
            name, number = moment
            wanted[name] = self.some_live(number)[f"{name.split('_')[0]}_at"]
        expected = self.tasks.listed(wanted, sort)
        query = {**wanted, "sort": sort, "per_page": per_page}

        by_page: list[Task] = []
        pages = -(-len(expected) // per_page)
        for page in range(1, pages + 2):
            data = self.listed({**query, "page": page})
            assert (data["total"], data["page"], data["pages"]) == (len(expected), page, pages)
            by_page += data["tasks"]
        assert [task["id"] for task in by_page] == expected
        assert all(task == self.tasks.live[task["id"]] for task in by_page)

        data = self.listed(query)
        by_cursor = data["tasks"]
        while data["next_cursor"]:
            data = self.listed({**query, "cursor": data["next_cursor"]})
            assert (data["total"], data["page"], data["pages"]) == (None, None, None)
            by_cursor += data["tasks"]
        assert by_cursor == by_page

        response = self.client.get(f"{API}/stats", params=wanted)
        assert response.json()["data"] == self.tasks.stats(wanted)

    def listed(self, query: Task) -> Task:
        response = self.client.get(API, params=query)
        assert response.status_code == 200, response.text
        data: Task = response.json()["data"]
        return data

    def trashed(self) -> list[Task]:
        """The trash, newest deletion first."""
        response = self.client.get(f"{API}/trash", params={"per_page": 100})
        found: list[Task] = response.json()["data"]["tasks"]
        for task in found:
            assert task.pop("deleted_at") == task["updated_at"]
        return found

    @invariant()
    def the_trash_holds_what_was_deleted_newest_first(self) -> None:
        assert self.trashed() == list(reversed(self.tasks.trash.values()))


def etag_of(task: Task) -> str:
    return f'"{task["id"]}-{task["version"]}"'


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


@pytest.fixture
def new_client(base_url: str, settings: Settings) -> Iterator[Callable[[], httpx.Client]]:
    """Makes clients of accounts of their own, outside of any event loop as hypothesis is."""
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        database = Database(settings)

        def new() -> httpx.Client:
            account = runner.run(make_account(database, base_url))
            runner.run(account.client.aclose())
            headers = {"Authorization": f"Bearer {account.token}"}
            return stack.enter_context(blocking_client(base_url, headers))

        yield new
        runner.run(database.close())


def assert_histories_follow_the_model(
    new_client: Callable[[], httpx.Client], *, number: int, steps: int
) -> None:
    class HistoryOfItsOwn(History):
        def __init__(self) -> None:
            super().__init__(new_client())

    run_state_machine_as_test(
        HistoryOfItsOwn,
        settings=hypothesis_settings(
            max_examples=number,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=number < 100,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.long
def test_a_few_histories_go_as_the_model_of_the_contract_says(
    new_client: Callable[[], httpx.Client],
) -> None:
    assert_histories_follow_the_model(new_client, number=8, steps=20)


@pytest.mark.endurance
def test_a_thousand_histories_go_as_the_model_of_the_contract_says(
    new_client: Callable[[], httpx.Client],
) -> None:
    assert_histories_follow_the_model(new_client, number=1000, steps=30)
