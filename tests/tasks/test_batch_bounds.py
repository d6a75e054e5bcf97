"""POST /api/v1/tasks/batch: bounds, and rules of the single calls that hold in a batch as well."""

from typing import Any

import pytest
from sqlalchemy import text

from app.db.session import Database
from tests.support import Account, assert_error
from tests.tasks.batches import create, results, run, update

PATH = "/api/v1/tasks"
METADATA_BYTES = 16 * 1024


def metadata_of(size: int) -> dict[str, Any]:
    """A document that has so many bytes as compact JSON in UTF-8."""
    spare = size - len('{"a":""}')
    return {"a": "é" * (spare // 2) + "x" * (spare % 2)}


@pytest.mark.parametrize("more", [0, 1])
async def test_metadata_has_its_bound_to_the_byte_as_in_a_single_call(
    alice: Account, more: int
) -> None:
    document = metadata_of(METADATA_BYTES + more)
    task = await alice.create_task(metadata={"b": "x" * 1000})
    # With what is there already, as long as the other.
    rest = metadata_of(METADATA_BYTES + more - len(',"b":""') - 1000)
    single = await alice.client.post(PATH, json={"title": "x", "metadata": document})
    created, updated = results(
        await run(
            alice,
            create(title="x", metadata=document),
            update(task["id"], metadata=rest),
            atomic=False,
        )
    )

    assert single.status_code == (400 if more else 201)
    assert (created["status"], updated["status"]) == ((400, 400) if more else (201, 200))


async def test_a_task_that_was_completed_keeps_the_moment_in_which_it_was(alice: Account) -> None:
    task = await alice.create_task(status="completed")
    (changed,) = results(await run(alice, update(task["id"], status="completed", title="New")))

    assert changed["data"]["version"] == 2
    assert changed["data"]["completed_at"] == task["completed_at"]


async def test_a_new_title_has_its_place_in_the_order_of_titles(alice: Account) -> None:
    first, second = [await alice.create_task(title=title) for title in ("A", "B")]
    results(await run(alice, update(first["id"], title="c")))

    listed = (await alice.client.get(PATH, params={"sort": "title"})).json()["data"]["tasks"]
    assert [task["id"] for task in listed] == [second["id"], first["id"]]


@pytest.mark.parametrize("before", [5, "x", [1], None])
async def test_an_object_takes_the_place_of_what_was_none(alice: Account, before: Any) -> None:
    task = await alice.create_task(metadata={"a": before})
    patch = {"a": {"b": 1, "c": None}}
    (changed,) = results(await run(alice, update(task["id"], metadata=patch)))

    assert changed["data"]["metadata"] == {"a": {"b": 1}}


async def test_an_answer_names_each_invalid_operation_and_of_their_other_faults_no_more_than_fifty(
    alice: Account,
) -> None:
    invalid = [create(title="", status="x", priority="x") for _ in range(40)]
    response = await run(alice, *invalid)

    fields = [error["field"] for error in response.json()["errors"]]
    assert {field.partition("].")[0] for field in fields} == {
        f"body.operations[{n}" for n in range(40)
    }
    assert len(fields) == 50
    many = [create(title="", status="x", priority="x") for _ in range(51)]
    assert_error(
        await run(alice, *many),
        400,
        "validation_failed",
        fields={f"body.operations[{n}].task.title": "too_short" for n in range(51)},
    )


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_batch_that_writes_nothing_is_refused_too_when_the_credential_has_ended(
    alice: Account, database: Database, *, atomic: bool
) -> None:
    task = await alice.create_task()
    nothing = update(task["id"], title=task["title"])
    # The worker remembers the credential by then.
    assert len(results(await run(alice, nothing, atomic=atomic))) == 1
    async with database.session() as session:
        await session.execute(
            text("UPDATE credentials SET revoked_at = now() WHERE id = :id"),
            {"id": alice.credential_id},
        )

    assert_error(await run(alice, nothing, atomic=atomic), 401, "unauthenticated")
