"""PUT /api/v1/tasks/external/{external_id}."""

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support import Account, assert_error


async def put(
    account: Account, external_id: str, body: dict[str, Any], **headers: str
) -> httpx.Response:
    path = f"/api/v1/tasks/external/{quote(external_id, safe='')}"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await account.client.put(path, json=body, headers=names)


async def test_a_task_is_created_then_replaced_and_absent_fields_take_their_defaults(
    alice: Account,
) -> None:
    body = {
        "title": " Water ",
        "description": "Ferns",
        "status": "completed",
        "priority": "high",
        "tags": ["a"],
        "due_on": "2026-12-01",
        "metadata": {"a": {"b": 1}},
    }
    created = await put(alice, "crm/4711", body)
    assert created.status_code == 201
    assert created.json()["message"] == "Task created"
    task = created.json()["data"]
    assert task | body | {"title": "Water"} == task
    assert (task["external_id"], task["version"]) == ("crm/4711", 1)
    assert created.headers["Location"] == f"/api/v1/tasks/{task['id']}"
    assert (await alice.client.get(created.headers["Location"])).json()["data"] == task

    replaced = await put(alice, "crm/4711", {"title": "Water", "metadata": {"c": None}})
    assert replaced.status_code == 200
    assert replaced.json()["message"] == "Task updated"
    assert "Location" not in replaced.headers
    now = replaced.json()["data"]
    assert now == task | {
        "description": "",
        "status": "pending",
        "priority": "medium",
        "tags": [],
        "due_on": None,
        "metadata": {"c": None},
        "completed_at": None,
        "version": 2,
        "updated_at": now["updated_at"],
    }


async def test_of_two_conditions_both_must_hold(alice: Account) -> None:
    task = (await put(alice, "a", {"title": "Water"})).json()["data"]
    now, other = f'"{task["id"]}-1"', f'"{task["id"]}-9"'
    for if_match, if_none_match in ((other, other), (now, now), (other, now)):
        conditions = {"If_Match": if_match, "If_None_Match": if_none_match}
        refused = await put(alice, "a", {"title": "Prune"}, **conditions)
        assert_error(refused, 412, "version_conflict")
    done = await put(alice, "a", {"title": "Prune"}, If_Match=now, If_None_Match=other)
    assert done.json()["data"]["title"] == "Prune"
    assert done.json()["data"]["version"] == 2


async def test_equal_content_keeps_the_version(alice: Account) -> None:
    body = {"title": "Water", "status": "completed", "tags": ["a", "b"], "metadata": {"a": [1]}}
    first = await put(alice, "e", body)
    again = await put(alice, "e", body | {"priority": "medium", "due_at": None})

    assert again.status_code == 200
    assert again.json()["data"] == first.json()["data"]
    renamed = (await put(alice, "e", body | {"title": "Other"})).json()["data"]
    assert renamed["completed_at"] == first.json()["data"]["completed_at"]


@pytest.mark.parametrize(
    "external_id",
    [
        "a/b",
        "/",
        "//a//",
        "a%2Fb",
        "%",
        "100%",
        "?a=b&c#d",
        "é",
        "日本/語",
        " a ",
        "+",
        "..a",
        "a.b",
        "two\nlines",
        "\n",
        "a\n",
        "x" * 200,
    ],
)
async def test_any_name_is_possible_percent_encoded(alice: Account, external_id: str) -> None:
    created = await put(alice, external_id, {"title": "x"})
    assert created.status_code == 201
    assert created.json()["data"]["external_id"] == external_id
    assert (await put(alice, external_id, {"title": "x"})).status_code == 200
    listed = await alice.client.get("/api/v1/tasks", params={"external_id": external_id})
    assert listed.json()["data"]["total"] == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [("x" * 201, "too_long"), ("a%00", "invalid"), ("%FF", "invalid"), ("%C3", "invalid")],
)
async def test_a_name_that_no_task_can_have_is_refused(
    alice: Account, path: str, code: str
) -> None:
    response = await alice.client.put(f"/api/v1/tasks/external/{path}", json={"title": "x"})
    assert_error(response, 400, "validation_failed", fields={"path.external_id": code})


@pytest.mark.parametrize("path", ["a/b", "a/", "/a", "a%2Fb/c"])
async def test_a_bare_slash_leads_nowhere(alice: Account, path: str) -> None:
    response = await alice.client.put(f"/api/v1/tasks/external/{path}", json={"title": "x"})
    assert_error(response, 404, "not_found")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body.title": "missing"}),
        ({"title": "x", "external_id": "e"}, {"body.external_id": "unknown"}),
        ({"title": "x", "version": 1}, {"body.version": "unknown"}),
        ({"title": "x", "tags": None}, {"body.tags": "wrong_type"}),
        (
            {"title": "x", "due_on": "2026-01-01", "due_at": "2026-01-01T00:00:00Z"},
            {"body.due_on": "invalid"},
        ),
        ({"title": "x", "metadata": {"a": "x" * 16_384}}, {"body.metadata": "too_long"}),
    ],
)
async def test_a_body_with_a_fault_changes_nothing(
    alice: Account, body: dict[str, Any], fields: dict[str, str]
) -> None:
    task = (await put(alice, "e", {"title": "Kept", "due_at": "2026-01-01T00:00:00Z"})).json()[
        "data"
    ]

    assert_error(await put(alice, "e", body), 400, "validation_failed", fields=fields)
    read = await alice.client.get(f"/api/v1/tasks/{task['id']}")
    assert read.json()["data"] == task


async def test_a_star_in_if_none_match_only_creates(alice: Account) -> None:
    created = await put(alice, "e", {"title": "x"}, If_None_Match="*")
    assert created.status_code == 201
    tag = created.headers["ETag"]
    refused = await put(alice, "e", {"title": "y"}, If_None_Match="*")
    assert_error(refused, 412, "version_conflict")
    refused = await put(alice, "e", {"title": "y"}, If_None_Match=f'"x", W/{tag}')
    assert_error(refused, 412, "version_conflict")
    refused = await put(alice, "e", {"title": "y"}, If_Match=tag, If_None_Match="*")
    assert_error(refused, 412, "version_conflict")
    assert (await put(alice, "e", {"title": "x"})).json()["data"] == created.json()["data"]
    other = await put(alice, "e", {"title": "y"}, If_None_Match='"x"')
    assert other.json()["data"]["version"] == 2


async def test_with_if_match_a_task_is_only_replaced(alice: Account) -> None:
    for tag in ("*", '"1-1"'):
        assert_error(await put(alice, "e", {"title": "x"}, If_Match=tag), 412, "version_conflict")
    tag = (await put(alice, "e", {"title": "x"})).headers["ETag"]
    replaced = await put(alice, "e", {"title": "y"}, If_Match=tag)
    assert (replaced.status_code, replaced.json()["data"]["version"]) == (200, 2)
    assert_error(await put(alice, "e", {"title": "z"}, If_Match=tag), 412, "version_conflict")


async def test_the_same_name_is_another_task_for_another_user_and_after_a_deletion(
    alice: Account, bob: Account
) -> None:
    hers = (await put(alice, "e", {"title": "Hers"})).json()["data"]
    his = await put(bob, "e", {"title": "His"})
    assert his.status_code == 201
    await alice.client.delete(f"/api/v1/tasks/{hers['id']}")
    new = await put(alice, "e", {"title": "New"})
    assert (new.status_code, new.json()["data"]["id"] != hers["id"]) == (201, True)


async def test_of_twenty_equal_puts_at_once_one_creates_and_the_version_stays_one(
    alice: Account,
) -> None:
    async def put_until_answered() -> httpx.Response:
        while True:
            response = await put(alice, "e", {"title": "x", "tags": ["a"]})
            # Twenty are more than the pool has connections.
            if response.status_code != 503:
                return response

    responses = await asyncio.gather(*(put_until_answered() for _ in range(20)))
    assert sorted(response.status_code for response in responses) == [200] * 19 + [201]
    (task,) = {str(response.json()["data"]) for response in responses}
    assert responses[0].json()["data"]["version"] == 1
    listed = (await alice.client.get("/api/v1/tasks")).json()["data"]["tasks"]
    assert [str(one) for one in listed] == [task]


@pytest.mark.parametrize(
    "path",
    [
        "%65xternal/foo",
        "external%2Ffoo",
        "%65xternal/a/external/b",
        "%65xternal/a/tasks/external/b",
    ],
)
async def test_a_path_that_only_decodes_to_the_route_is_not_found(
    alice: Account, path: str
) -> None:
    response = await alice.client.put(f"/api/v1/tasks/{path}", json={"title": "x"})

    assert_error(response, 404, "not_found")
    assert (await alice.client.get("/api/v1/tasks")).json()["data"]["total"] == 0
