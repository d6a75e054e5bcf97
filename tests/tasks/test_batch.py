"""POST /api/v1/tasks/batch: what is taken, what is refused, and what is answered."""

from typing import Any

import pytest
from sqlalchemy import text

from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from tests.conftest import NewAccount
from tests.support import Account, assert_error, http_client, served, statements_of
from tests.tasks.batches import create, delete, results, run, update

PATH = "/api/v1/tasks/batch"
MISSING_ID = 999_999_999_999


async def stored(account: Account) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = (
        await account.client.get("/api/v1/tasks", params={"per_page": 100})
    ).json()["data"]["tasks"]
    return sorted(tasks, key=lambda task: int(task["id"]))


async def test_a_batch_whose_answer_would_be_too_large_does_nothing(alice: Account) -> None:
    task = await alice.create_task(description="x" * 20_000)
    operations = [update(task["id"], title=f"{number}") for number in range(500)]

    for atomic in (True, False):
        assert_error(await run(alice, *operations, atomic=atomic), 413, "payload_too_large")
    assert await stored(alice) == [task]
    assert (await run(alice, *operations[:400])).status_code == 200


async def test_operations_answer_by_index_what_single_calls_would(alice: Account) -> None:
    kept, gone = await alice.create_task(title="Kept"), await alice.create_task(title="Gone")
    response = await run(
        alice,
        create(title=" New ", tags=["a"], due_on="2026-12-01"),
        update(kept["id"], version=1, status="completed"),
        delete(gone["id"], version=1, permanent=False),
    )

    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["message"]) == ("success", "Batch done")
    created, changed, deleted = body["data"]["results"]
    assert created == {"index": 0, "status": 201, "data": created["data"]}
    assert changed == {"index": 1, "status": 200, "data": changed["data"]}
    assert deleted == {"index": 2, "status": 200, "data": None}
    assert created["data"]["title"] == "New"
    assert changed["data"]["version"] == 2
    assert changed["data"]["completed_at"] == changed["data"]["updated_at"] > kept["updated_at"]
    assert await stored(alice) == [changed["data"], created["data"]]


async def test_creates_have_ids_in_their_order_and_read_as_answered(alice: Account) -> None:
    answered = results(await run(alice, *(create(title=f"{n}") for n in range(30))))

    assert [one["data"]["title"] for one in answered] == [f"{n}" for n in range(30)]
    assert await stored(alice) == [one["data"] for one in answered]


async def test_each_operation_sees_those_before_it(alice: Account) -> None:
    task = await alice.create_task()
    first, second, same, _, missing, permanent, again = results(
        await run(
            alice,
            update(task["id"], version=1, title="One"),
            update(task["id"], version=2, description="Two"),
            update(task["id"], version=3, title="One"),
            delete(task["id"], version=3),
            update(task["id"], title="Three"),
            delete(task["id"], version=4, permanent=True),
            delete(task["id"], permanent=True),
            atomic=False,
        )
    )

    assert first["data"]["version"] == 2
    assert second["data"] | {"version": 2, "updated_at": ""} == first["data"] | {
        "description": "Two",
        "updated_at": "",
    }
    assert first["data"]["updated_at"] < second["data"]["updated_at"]
    assert same["data"] == second["data"]
    assert missing["error"] == {"code": "task_not_found", "message": "Task not found"}
    assert permanent == {"index": 5, "status": 200, "data": None}
    assert again["status"] == 404


FAULTS: dict[str, tuple[Any, dict[str, str]]] = {
    "no title": ({"op": "create", "task": {}}, {"task.title": "missing"}),
    "no task": ({"op": "create"}, {"task": "missing"}),
    "an unknown field": (create(titel="x", title="x"), {"task.titel": "unknown"}),
    "an unknown member": ({**create(title="x"), "id": 1}, {"id": "unknown"}),
    "a bad tag": (create(title="x", tags=["a", ""]), {"task.tags[1]": "too_short"}),
    "two dues": (
        create(title="x", due_on="2026-12-01", due_at="2026-12-01T00:00:00Z"),
        {"task.due_on": "invalid"},
    ),
    "a null title": (update(1, title=None), {"changes.title": "wrong_type"}),
    "no id": ({"op": "update", "changes": {}}, {"id": "missing"}),
    "no changes": ({"op": "update", "id": 1}, {"changes": "missing"}),
    "an id in text": ({"op": "delete", "id": "1"}, {"id": "wrong_type"}),
    "an id of true": ({"op": "delete", "id": True}, {"id": "wrong_type"}),
    "an id of zero": ({"op": "delete", "id": 0}, {"id": "out_of_range"}),
    "an id too large": ({"op": "delete", "id": 2**53}, {"id": "out_of_range"}),
    "a version of zero": (delete(1, version=0), {"version": "out_of_range"}),
    "a null version": (delete(1, version=None), {"version": "wrong_type"}),
    "permanent in text": (delete(1, permanent="true"), {"permanent": "wrong_type"}),
    "no op": ({"id": 1}, {"op": "missing"}),
    "another op": ({"op": "upsert", "id": 1}, {"op": "invalid"}),
    "a list for op": ({"op": ["create"]}, {"op": "wrong_type"}),
    "null": (None, {"": "wrong_type"}),
    "a list": ([create(title="x")], {"": "wrong_type"}),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_invalid_operation_is_named_and_an_atomic_batch_does_nothing(
    alice: Account, fault: str
) -> None:
    operation, blamed = FAULTS[fault]
    fields = {
        f"body.operations[1]{'.' if field else ''}{field}": code for field, code in blamed.items()
    }
    response = await run(alice, create(title="x"), operation)
    assert_error(response, 400, "validation_failed", fields=fields)
    assert await stored(alice) == []

    done, failed = results(await run(alice, create(title="x"), operation, atomic=False))
    assert done["status"] == 201
    assert failed == {"index": 1, "status": 400, "error": failed["error"]}
    assert failed["error"]["code"] == "validation_failed"
    assert {error["field"]: error["code"] for error in failed["error"]["errors"]} == fields
    assert await stored(alice) == [done["data"]]


async def test_every_invalid_operation_is_named_however_many_there_are(alice: Account) -> None:
    invalid = [
        {"op": "create", "task": {"title": "", "status": "x", f"x{n}": 1}} for n in range(999)
    ]
    response = await run(alice, create(title="x"), *invalid)

    assert response.status_code == 400
    fields = [error["field"] for error in response.json()["errors"]]
    assert fields == [f"body.operations[{n}].task.title" for n in range(1, 1000)]
    each = results(await run(alice, create(title="x"), *invalid, atomic=False))
    assert [one["status"] for one in each] == [201] + [400] * 999
    assert {len(one["error"]["errors"]) for one in each[1:]} == {3}


async def test_the_faults_of_few_operations_are_told_in_full(alice: Account) -> None:
    invalid = [{"op": "create", "task": {"title": "", "status": "x"}} for _ in range(3)]
    response = await run(alice, *invalid)
    assert len(response.json()["errors"]) == 6

    (failed,) = results(
        await run(alice, create(title="x", **{f"x{n}": 1 for n in range(5000)}), atomic=False)
    )
    (fault,) = failed["error"]["errors"]
    assert (fault["field"], fault["code"]) == ("body.operations[0]", "invalid")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body.operations": "missing"}),
        ({"operations": []}, {"body.operations": "too_short"}),
        ({"operations": [create(title="x")] * 1001}, {"body.operations": "too_long"}),
        ({"operations": {}}, {"body.operations": "wrong_type"}),
        ({"operations": [create(title="x")], "atomic": "no"}, {"body.atomic": "wrong_type"}),
        ({"operations": [create(title="x")], "atomic": None}, {"body.atomic": "wrong_type"}),
        ({"operations": [create(title="x")], "dry": True}, {"body.dry": "unknown"}),
        ([], {"body": "wrong_type"}),
    ],
)
@pytest.mark.parametrize("atomic", [True, False])
async def test_a_body_that_is_no_batch_is_refused(
    alice: Account, body: Any, fields: dict[str, str], *, atomic: bool
) -> None:
    if isinstance(body, dict):
        body = {"atomic": atomic} | body
    response = await alice.client.post(PATH, json=body)

    assert_error(response, 400, "validation_failed", fields=fields)
    assert await stored(alice) == []


async def test_a_body_may_have_8_mib(alice: Account) -> None:
    operation = create(title="x", metadata={"a": "x" * 16_000})
    response = await run(alice, *[operation] * 500)
    assert len(response.request.content) > 8_000_000
    assert len(results(response)) == 500

    response = await run(alice, *[operation] * 530)
    assert_error(response, 413, "payload_too_large")


async def test_a_failure_in_an_atomic_batch_is_named_and_leaves_nothing_behind(
    alice: Account,
) -> None:
    task = await alice.create_task(external_id="taken", due_at="2026-12-01T09:30:00Z")
    before = await stored(alice)
    failing: list[tuple[Any, int, str, dict[str, str]]] = [
        (update(MISSING_ID, title="x"), 404, "task_not_found", {"id": "invalid"}),
        (delete(MISSING_ID), 404, "task_not_found", {"id": "invalid"}),
        (update(task["id"], version=7), 412, "version_conflict", {"version": "incorrect"}),
        (delete(task["id"], version=1), 412, "version_conflict", {"version": "incorrect"}),
        (
            create(title="x", external_id="taken"),
            409,
            "external_id_taken",
            {"task.external_id": "duplicate"},
        ),
        (
            update(task["id"], due_on="2026-12-01"),
            400,
            "validation_failed",
            {"changes.due_on": "invalid"},
        ),
    ]
    for operation, status, code, fields in failing:
        response = await run(
            alice,
            create(title="New"),
            update(task["id"], title="Changed"),
            operation,
            delete(MISSING_ID),
        )
        expected = {f"body.operations[2].{field}": fault for field, fault in fields.items()}
        assert_error(response, status, code, fields=expected)
        assert await stored(alice) == before


async def test_without_atomic_failures_stand_beside_what_was_done(alice: Account) -> None:
    task = await alice.create_task(external_id="taken")
    each = results(
        await run(
            alice,
            update(MISSING_ID, title="x"),
            create(title="x", external_id="taken"),
            update(task["id"], version=7, title="x"),
            update(task["id"], version=1, title="Changed"),
            create(title="New"),
            atomic=False,
        )
    )

    assert [one["status"] for one in each] == [404, 409, 412, 200, 201]
    assert [one["error"]["code"] for one in each[:3]] == [
        "task_not_found",
        "external_id_taken",
        "version_conflict",
    ]
    blamed = each[1]["error"]["errors"]
    assert [one["field"] for one in blamed] == ["body.operations[1].task.external_id"]
    assert await stored(alice) == [each[3]["data"], each[4]["data"]]


@pytest.mark.parametrize("atomic", [True, False])
async def test_anothers_task_is_not_found(alice: Account, bob: Account, *, atomic: bool) -> None:
    mine = await alice.create_task(external_id="mine")
    trashed = await alice.create_task()
    await alice.client.delete(f"/api/v1/tasks/{trashed['id']}")
    for operation in (
        update(mine["id"], title="Mine"),
        update(mine["id"], version=1),
        delete(mine["id"]),
        delete(mine["id"], permanent=True),
        delete(trashed["id"], version=2, permanent=True),
    ):
        theirs = await run(bob, operation, atomic=atomic)
        nobodys = await run(bob, {**operation, "id": MISSING_ID}, atomic=atomic)
        # Not even the words differ from those for a task that does not exist.
        assert theirs.json() | {"request_id": ""} == nobodys.json() | {"request_id": ""}
        status = theirs.status_code if atomic else results(theirs)[0]["status"]
        assert status == 404
    # Names are each owner's own.
    assert results(await run(bob, create(title="x", external_id="mine")))[0]["status"] == 201
    assert await stored(alice) == [mine]


async def test_a_read_only_login_cannot_run_a_batch(new_account: NewAccount) -> None:
    reader = await new_account(scopes=["tasks:read"])

    assert_error(await run(reader, create(title="x")), 403, "insufficient_scope")


@pytest.mark.parametrize("ending", ["revoked_at", "expires_at"])
@pytest.mark.parametrize("atomic", [True, False])
async def test_an_ended_credential_does_nothing(
    alice: Account, database: Database, ending: str, *, atomic: bool
) -> None:
    task = await alice.create_task()
    await run(alice, update(task["id"], title="Before"))
    async with database.session() as session:
        await session.execute(
            text(f"UPDATE credentials SET {ending} = now() WHERE id = :id"),  # noqa: S608 - from the list above
            {"id": alice.credential_id},
        )
    for operation in (
        create(title="After"),
        update(task["id"], title="After"),
        delete(task["id"]),
        delete(task["id"], permanent=True),
        {"op": "none"},
    ):
        assert_error(await run(alice, operation, atomic=atomic), 401, "unauthenticated")
    async with database.session() as session:
        titles = text("SELECT title FROM tasks WHERE owner_id = :id AND deleted_at IS NULL")
        assert (await session.scalars(titles, {"id": alice.id})).all() == ["Before"]


async def test_a_batch_with_a_key_is_safe_to_repeat(alice: Account) -> None:
    headers = {"Idempotency-Key": "a-key"}
    body = {"operations": [create(title="x"), create(title="y")]}
    first = await alice.client.post(PATH, json=body, headers=headers)
    again = await alice.client.post(PATH, json=body, headers=headers)

    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.content) == (200, first.content)
    assert await stored(alice) == [one["data"] for one in results(first)]
    # One path's key is no other path's.
    single = await alice.client.post("/api/v1/tasks", json={"title": "x"}, headers=headers)
    assert_error(single, 422, "idempotency_key_reused")
    other = await alice.client.post(PATH, json=body | {"atomic": False}, headers=headers)
    assert_error(other, 422, "idempotency_key_reused")


async def test_an_atomic_batch_that_fails_leaves_no_key_behind(alice: Account) -> None:
    headers = {"Idempotency-Key": "a-key"}
    bodies: list[tuple[Any, int]] = [
        ([create(title="x"), delete(MISSING_ID)], 404),
        ([create(title="x"), create(title="")], 400),
        ([create(title="x")], 200),
    ]
    for operations, status in bodies:
        response = await alice.client.post(PATH, json={"operations": operations}, headers=headers)
        assert response.status_code == status
        assert "Idempotent-Replayed" not in response.headers
    assert len(await stored(alice)) == 1


async def test_a_thousand_operations_are_a_handful_of_statements(
    settings: Settings, alice: Account
) -> None:
    app = create_app(settings)
    statements = statements_of(app)

    async def ids_of(*operations: Any, key: str, most: int = 10) -> list[int]:
        statements.clear()
        headers = {"Idempotency-Key": key}
        response = await client.post(PATH, json={"operations": operations}, headers=headers)
        assert 0 < len(statements) <= most, statements
        return [one["data"]["id"] for one in results(response) if one["data"]]

    with served(app) as url:
        async with http_client(url, {"Authorization": f"Bearer {alice.token}"}) as client:
            creates = (create(title="x", external_id=f"{n}") for n in range(1000))
            ids = await ids_of(*creates, key="create")
            assert len(ids) == 1000
            await ids_of(*(update(one, title="y", metadata={"a": 1}) for one in ids), key="update")
            await ids_of(*(delete(one) for one in ids), key="delete")
            await ids_of(*(delete(one, permanent=True) for one in ids), key="remove")
            one, two, three = await ids_of(*[create(title="x")] * 3, key="few")
            # Every statement that there is: one takes over the name that another gives up.
            await ids_of(update(one, external_id="passed on"), key="prepare")
            await ids_of(
                update(one, external_id=None),
                update(two, external_id="passed on"),
                delete(three, permanent=True),
                create(title="y"),
                key="all",
                most=11,
            )


async def test_what_lacks_one_item_is_told_in_the_singular(alice: Account) -> None:
    response = await alice.client.post("/api/v1/tasks/batch", json={"operations": []})

    assert response.json()["errors"][0]["message"] == "Input should have at least 1 item"
