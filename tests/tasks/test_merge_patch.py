"""PATCH /api/v1/tasks/{id} as a JSON Merge Patch (RFC 7396)."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from app.db.session import Database
from tests.model.model import merged
from tests.support import Account, assert_error
from tests.tasks.test_task_fields import nested, sized


async def patched(account: Account, task: dict[str, Any], changes: dict[str, Any]) -> Any:
    response = await account.client.patch(f"/api/v1/tasks/{task['id']}", json=changes)
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def test_each_field_changes_alone_and_null_clears_what_may_be_null(alice: Account) -> None:
    task = await alice.create_task(due_at="2026-12-01T09:30:00Z", external_id="a", tags=["x"])
    steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"tags": ["y", "x"]}, {"tags": ["y", "x"]}),
        ({"tags": []}, {"tags": []}),
        ({"due_at": None}, {"due_at": None}),
        ({"due_on": "2026-12-02"}, {"due_on": "2026-12-02"}),
        ({"external_id": "b"}, {"external_id": "b"}),
        ({"external_id": None}, {"external_id": None}),
        ({"metadata": {"a": 1}}, {"metadata": {"a": 1}}),
    ]
    for changes, expected in steps:
        changed = await patched(alice, task, changes)
        task |= expected | {"version": task["version"] + 1, "updated_at": changed["updated_at"]}
        assert changed == task


@pytest.mark.parametrize(
    "changes",
    [
        {"tags": ["a", "b"]},
        {"due_on": "2026-12-01", "due_at": None},
        {"external_id": "e", "metadata": {}},
        {"metadata": {"a": {"b": 1.0}, "missing": None}},
        {"metadata": {"a": {"gone": None}}},
    ],
)
async def test_a_patch_that_says_what_is_there_keeps_the_version(
    alice: Account, changes: dict[str, Any]
) -> None:
    task = await alice.create_task(
        tags=["a", "b"], due_on="2026-12-01", external_id="e", metadata={"a": {"b": 1}}
    )

    assert await patched(alice, task, changes) == task


async def test_an_equal_number_stays_written_as_it_is_while_the_version_stays(
    alice: Account,
) -> None:
    task = await alice.create_task(external_id="e", metadata={"a": {"b": 1}})
    path = f"/api/v1/tasks/{task['id']}"
    before = (await alice.client.get(path)).content
    metadata = {"a": {"b": 1.0}}

    await patched(alice, task, {"metadata": metadata})
    assert (await alice.client.get(path)).content == before
    body: dict[str, Any] = {"title": task["title"], "metadata": metadata}
    await alice.client.put("/api/v1/tasks/external/e", json=body)
    assert (await alice.client.get(path)).content == before
    operation = {"op": "update", "id": task["id"], "changes": {"metadata": metadata}}
    await alice.client.post("/api/v1/tasks/batch", json={"operations": [operation]})
    assert (await alice.client.get(path)).content == before

    changed = await patched(alice, task, {"title": "Other", "metadata": metadata})
    assert (changed["version"], str(changed["metadata"])) == (2, str(metadata))


async def test_due_in_another_way_needs_the_standing_one_set_to_null(alice: Account) -> None:
    instant, day = "2026-12-01T09:30:00.000000Z", "2026-12-02"
    task = await alice.create_task(due_at=instant)
    path = f"/api/v1/tasks/{task['id']}"

    response = await alice.client.patch(path, json={"due_on": day})
    assert_error(response, 400, "validation_failed", fields={"body.due_on": "invalid"})
    task = await patched(alice, task, {"due_on": day, "due_at": None})
    assert (task["due_at"], task["due_on"]) == (None, day)
    response = await alice.client.patch(path, json={"due_at": instant, "title": "x"})
    assert_error(response, 400, "validation_failed", fields={"body.due_at": "invalid"})
    task = await patched(alice, task, {"due_on": None, "due_at": instant})
    assert (task["due_at"], task["due_on"]) == (instant, None)


# The examples of RFC 7396, appendix A, each one level down.
@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
async def test_metadata_is_merged_as_the_standard_shows(
    alice: Account, original: Any, patch: Any, result: Any
) -> None:
    task = await alice.create_task(metadata={"x": original, "y": 1})

    changed = await patched(alice, task, {"metadata": {"x": patch}})
    assert changed["metadata"] == {"x": result, "y": 1}


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "é"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "b", "", "é"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(target=documents, patch=documents)
async def test_the_database_merges_any_documents_as_the_standard_does(
    database: Database, target: Any, patch: Any
) -> None:
    merge = func.merge_patch(literal(target, JSONB(none_as_null=False)), literal(patch, JSONB))
    async with database.session() as session:
        result = await session.scalar(select(func.jsonb_build_array(merge)))

    assert result == [merged(target, patch)]


async def test_patches_of_different_members_at_once_all_stand(alice: Account) -> None:
    for _ in range(5):
        task = await alice.create_task(metadata={"gone": 1, "deep": {}})
        changes: list[dict[str, Any]] = [
            {f"{number}": {"n": number}, "deep": {f"{number}": number}} for number in range(8)
        ]
        changes.append({"gone": None})
        await asyncio.gather(*(patched(alice, task, {"metadata": change}) for change in changes))

        read = (await alice.client.get(f"/api/v1/tasks/{task['id']}")).json()["data"]
        assert read["version"] == 10
        assert read["metadata"] == {
            **{f"{number}": {"n": number} for number in range(8)},
            "deep": {f"{number}": number for number in range(8)},
        }


async def test_the_limits_of_metadata_hold_for_what_results(alice: Account) -> None:
    task = await alice.create_task(metadata={"a": nested(31)})
    path = f"/api/v1/tasks/{task['id']}"

    deeper: dict[str, Any] = {"b": 1}
    for _ in range(31):
        deeper = {"a": deeper}
    assert (await patched(alice, task, {"metadata": deeper}))["version"] == 2
    response = await alice.client.patch(path, json={"metadata": {"a": deeper}})
    assert_error(response, 400, "validation_failed", fields={"body.metadata": "out_of_range"})

    response = await alice.client.patch(path, json={"metadata": {"c": None, "b": sized(16_384)}})
    assert_error(response, 400, "validation_failed", fields={"body.metadata": "too_long"})
    full = sized(16_384 - len(b',"a":1'))
    await patched(alice, task, {"metadata": full | {"a": None}})
    response = await alice.client.patch(path, json={"metadata": {"a": 12}, "title": "Changed?"})
    assert_error(response, 400, "validation_failed", fields={"body.metadata": "too_long"})
    changed = await patched(alice, task, {"metadata": {"a": 1}})
    assert changed["metadata"] == full | {"a": 1}
    assert changed["title"] == task["title"]
    # What removes as much as it adds may itself be longer than the limit.
    (name,) = full
    exchanged = {name: None, "b": full[name], **{f"gone {number}": None for number in range(2000)}}
    assert (await patched(alice, task, {"metadata": exchanged}))["version"] == 5
