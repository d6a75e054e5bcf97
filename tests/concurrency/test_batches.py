"""Batches that meet other writers, and each other."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from app.db.session import Database
from app.tasks.batch import service
from tests.concurrency.locks import wait_until_waiting
from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, PASSWORD, Account, assert_error
from tests.tasks.batches import create, delete, results, run, update

PATH = "/api/v1/tasks"
TAKE_NAME = text(
    "INSERT INTO tasks (owner_id, title, title_key, description, status, priority, external_id) "
    "VALUES (:id, 'Theirs', 'theirs', '', 'pending', 'low', 'x')"
)


async def titles(account: Account) -> list[str]:
    tasks = (await account.client.get(PATH)).json()["data"]["tasks"]
    return sorted(task["title"] for task in tasks)


async def test_batches_that_name_the_same_tasks_in_other_orders_all_succeed(
    alice: Account,
) -> None:
    ids = [(await alice.create_task())["id"] for _ in range(20)]
    batches = [
        [update(one, description=f"{number}") for one in ids[:: 1 if number % 2 else -1]]
        for number in range(8)
    ]
    answers = await asyncio.gather(*(run(alice, *batch) for batch in batches))

    for answer in answers:
        results(answer)
    tasks = (await alice.client.get(PATH)).json()["data"]["tasks"]
    # No change was lost, and the last batch is the last on every task.
    assert {task["version"] for task in tasks} == {9}
    assert len({task["description"] for task in tasks}) == 1


async def test_batches_that_take_the_same_names_in_other_orders_share_them(
    alice: Account,
) -> None:
    ids = [(await alice.create_task())["id"] for _ in range(4)]
    names = [f"{number}" for number in range(30)]
    answers = await asyncio.gather(
        run(alice, *(create(title="A", external_id=name) for name in names), atomic=False),
        run(alice, *(create(title="B", external_id=name) for name in names[::-1]), atomic=False),
        # A change takes its name before the new tasks are stored.
        run(alice, *map(_named, ids[:2], names[28:]), _new(names[0]), atomic=False),
        run(alice, *map(_named, ids[2:], names[:2]), _new(names[29]), atomic=False),
    )

    each = [one for answer in answers for one in results(answer)]
    taken = [one["data"]["external_id"] for one in each if one["status"] < 300]
    assert sorted(taken) == sorted(names)
    assert {one["error"]["code"] for one in each if "error" in one} == {"external_id_taken"}


def _named(task_id: int, name: str) -> dict[str, Any]:
    return update(task_id, external_id=name)


def _new(name: str) -> dict[str, Any]:
    return create(title="C", external_id=name)


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_name_taken_by_another_writer_meanwhile_fails_the_operation_that_wants_it(
    alice: Account, database: Database, *, atomic: bool
) -> None:
    task = await alice.create_task(title="Mine")
    operations = [
        update(task["id"], title="Changed"),
        create(title="New"),
        create(title="Too late", external_id="x"),
    ]
    async with database.transaction() as session:
        await session.execute(TAKE_NAME, {"id": alice.id})
        batch = asyncio.create_task(run(alice, *operations, atomic=atomic))
        await wait_until_waiting(database, "INSERT INTO tasks")

    if atomic:
        fields = {"body.operations[2].task.external_id": "duplicate"}
        assert_error(await batch, 409, "external_id_taken", fields=fields)
        assert await titles(alice) == ["Mine", "Theirs"]
    else:
        assert [one["status"] for one in results(await batch)] == [200, 201, 409]
        assert await titles(alice) == ["Changed", "New", "Theirs"]


async def test_a_batch_that_others_get_in_the_way_of_time_and_again_gives_up(
    alice: Account, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ATTEMPTS", 1)
    async with database.transaction() as session:
        await session.execute(TAKE_NAME, {"id": alice.id})
        batch = asyncio.create_task(run(alice, create(title="Late", external_id="x")))
        await wait_until_waiting(database, "INSERT INTO tasks")

    assert_error(await batch, 503, "overloaded")
    assert await titles(alice) == ["Theirs"]


async def test_a_batch_that_waits_in_a_circle_with_another_writer_steps_back_and_succeeds(
    alice: Account, database: Database
) -> None:
    task = await alice.create_task(title="Mine")
    async with database.transaction() as session:
        await session.execute(TAKE_NAME, {"id": alice.id})
        operations = [create(title="x", external_id="x"), update(task["id"], description="Mine")]
        batch = asyncio.create_task(run(alice, *operations, atomic=False))
        await wait_until_waiting(database, "INSERT INTO tasks")
        # The batch waits for the name, and this for the task: PostgreSQL ends the longer wait.
        change = text("UPDATE tasks SET priority = 'low' WHERE id = :id")
        await session.execute(change, {"id": task["id"]})

    refused, changed = results(await batch)
    assert refused["status"] == 409
    assert (changed["data"]["description"], changed["data"]["priority"]) == ("Mine", "low")


async def test_a_batch_sees_what_other_writers_did_while_it_waited_for_them(
    alice: Account, database: Database
) -> None:
    trashed, changed, gone = [(await alice.create_task())["id"] for _ in range(3)]
    async with database.transaction() as session:
        for statement in (
            "UPDATE tasks SET deleted_at = now(), version = 2 WHERE id = :trashed",
            "UPDATE tasks SET description = 'Theirs', version = 2 WHERE id = :changed",
            "DELETE FROM tasks WHERE id = :gone",
        ):
            values = {"trashed": trashed, "changed": changed, "gone": gone}
            bound = {name: values[name] for name in values if f":{name}" in statement}
            await session.execute(text(statement), bound)
        batch = asyncio.create_task(
            run(
                alice,
                update(trashed, title="x"),
                update(changed, version=1, title="x"),
                update(changed, version=2, title="x"),
                delete(gone),
                delete(trashed, version=2, permanent=True),
                atomic=False,
            )
        )
        await wait_until_waiting(database, "SELECT tasks.id")

    each = results(await batch)
    assert [one["status"] for one in each] == [404, 412, 200, 404, 200]
    assert each[2]["data"]["description"] == "Theirs"
    assert each[2]["data"]["version"] == 3


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_credential_that_ends_while_its_batch_waits_writes_nothing(
    alice: Account, database: Database, *, atomic: bool
) -> None:
    task = await alice.create_task(title="Mine")
    lock = text("SELECT FROM tasks WHERE id = :id FOR UPDATE")
    async with database.transaction() as session:
        await session.execute(lock, {"id": task["id"]})
        operations = [create(title="New"), update(task["id"], title="Changed")]
        batch = asyncio.create_task(run(alice, *operations, atomic=atomic))
        await wait_until_waiting(database, "SELECT tasks.id")
        async with database.session() as other:
            await other.execute(
                text("UPDATE credentials SET revoked_at = now() WHERE id = :id"),
                {"id": alice.credential_id},
            )

    assert_error(await batch, 401, "unauthenticated")
    async with database.session() as session:
        left = text("SELECT title FROM tasks WHERE owner_id = :id")
        assert (await session.scalars(left, {"id": alice.id})).all() == ["Mine"]


async def test_whoever_closes_the_account_waits_for_a_batch_that_has_begun(
    new_account: NewAccount, database: Database
) -> None:
    account = await new_account(password_hash=CHEAP_HASH)
    tasks = [(await account.create_task())["id"] for _ in range(2)]
    lock = text("SELECT FROM tasks WHERE id = :id FOR UPDATE")
    async with database.transaction() as session:
        await session.execute(lock, {"id": tasks[1]})
        operations = [*(update(task, title="Changed") for task in tasks), create(title="New")]
        batch = asyncio.create_task(run(account, *operations))
        await wait_until_waiting(database, "SELECT tasks.id")
        # The batch has one of the tasks, and is yet to make another.
        proof = {"password": PASSWORD}
        closing = asyncio.create_task(account.client.post("/api/v1/users/me/close", json=proof))
        await wait_until_waiting(database, "DELETE FROM users")

    assert [one["status"] for one in results(await batch)] == [200, 200, 201]
    assert (await closing).status_code == 200


async def test_a_batch_repeated_at_the_same_time_runs_once(alice: Account) -> None:
    task = await alice.create_task()
    operations = [create(title="New"), update(task["id"], version=1, title="Changed")]
    answers = await asyncio.gather(
        *(
            alice.client.post(
                f"{PATH}/batch",
                json={"operations": operations},
                headers={"Idempotency-Key": "a-key"},
            )
            for _ in range(10)
        )
    )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sorted(await titles(alice)) == ["Changed", "New"]
