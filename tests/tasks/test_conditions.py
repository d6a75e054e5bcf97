"""ETag, If-None-Match and If-Match."""

import asyncio
from typing import Any

import httpx
import pytest

from app.core.conditions import parse_entity_tags
from tests.support import Account, assert_error


def etag(task: dict[str, Any]) -> str:
    return f'"{task["id"]}-{task["version"]}"'


def path_of(task: dict[str, Any]) -> str:
    return f"/api/v1/tasks/{task['id']}"


async def test_every_answer_with_one_task_names_its_version(alice: Account) -> None:
    created = await alice.client.post("/api/v1/tasks", json={"title": "x", "external_id": "e"})
    path = path_of(created.json()["data"])
    answers = [
        created,
        await alice.client.get(path),
        await alice.client.patch(path, json={"title": "y"}),
        await alice.client.patch(path, json={}),
        await alice.client.put("/api/v1/tasks/external/e", json={"title": "z"}),
        await alice.client.put("/api/v1/tasks/external/f", json={"title": "z"}),
        await alice.client.post(f"{path}/restore"),
    ]
    for answer in answers:
        assert answer.is_success
        assert answer.headers["ETag"] == etag(answer.json()["data"])
        assert answer.headers["Cache-Control"] == "private, no-cache"
    assert (await alice.client.head(path)).headers["ETag"] == answers[4].headers["ETag"]
    for answer in (await alice.client.get("/api/v1/tasks"), await alice.client.delete(path)):
        assert "ETag" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"


async def test_what_the_client_has_is_not_sent_again(alice: Account) -> None:
    task = await alice.create_task()
    tag = etag(task)
    for known in (
        tag,
        f"W/{tag}",
        "*",
        f'"other", {tag}',
        f'"a,b" ,, {tag},',
        f'"", {tag}',
        f", ,{tag}",
    ):
        for method in ("GET", "HEAD"):
            response = await alice.client.request(
                method, path_of(task), headers={"If-None-Match": known}
            )
            assert response.status_code == 304, known
            assert response.content == b""
            assert response.headers["ETag"] == tag
            assert response.headers["Cache-Control"] == "private, no-cache"
            assert "Content-Type" not in response.headers
    for other in ('"other"', f'"{task["id"]}-2"', f'"{task["id"] + 1}-1"'):
        response = await alice.client.get(path_of(task), headers={"If-None-Match": other})
        assert response.json()["data"] == task
    missing = await alice.client.get("/api/v1/tasks/999999999", headers={"If-None-Match": "*"})
    assert_error(missing, 404, "task_not_found")


@pytest.mark.parametrize(
    ("lines", "strong"),
    [
        ([', , "a"'], {"a"}),
        (['"a",', ', "b" ,,'], {"a", "b"}),
        (['"\xe9", "a"'], {"\xe9", "a"}),
        (['W/"b"\t,\t"a"'], {"a"}),
    ],
)
def test_a_list_is_read_in_every_form_that_the_standard_has(
    lines: list[str], strong: set[str]
) -> None:
    tags = parse_entity_tags(lines, field="header.if-match")
    assert tags is not None
    assert tags.strong == strong
    assert not tags.any


@pytest.mark.parametrize("star", ["*", " *\t"])
def test_a_star_may_stand_between_blanks(star: str) -> None:
    tags = parse_entity_tags([star], field="header.if-match")
    assert tags is not None
    assert tags.any


async def send(account: Account, method: str, task: dict[str, Any], *lines: str) -> httpx.Response:
    """A write of the task under these lines of `If-Match`."""
    path, body = path_of(task), None
    match method:
        case "PATCH":
            body = {"title": "Changed"}
        case "PUT":
            path, body = f"/api/v1/tasks/external/{task['external_id']}", {"title": "Changed"}
        case "POST":
            path += "/restore"
    headers = httpx.Headers([("If-Match", line) for line in lines])
    return await account.client.request(method, path, json=body, headers=headers)


WRITES = ["PATCH", "PUT", "DELETE", "POST"]


@pytest.mark.parametrize("method", WRITES)
async def test_a_write_is_applied_only_if_the_version_matches(alice: Account, method: str) -> None:
    task = await alice.create_task(external_id="e")
    task_id = task["id"]
    refused = [
        (f'"{task_id}-2"',),
        (f"W/{etag(task)}",),
        ('""',),
        (f'"{task_id}"',),
        (f'"{task_id}-01"',),
        (f'"{task_id}-99999999999999999999"',),
        (f'"{task_id + 1}-1"',),
        (f'"{task_id}-2", "{task_id}-3"', '"x"'),
    ]
    for lines in refused:
        assert_error(await send(alice, method, task, *lines), 412, "version_conflict")
    assert (await alice.client.get(path_of(task))).json()["data"] == task
    applied = await send(alice, method, task, f'"{task_id}-7", "a,b"', f'W/"x" , {etag(task)}')
    assert applied.status_code == 200


@pytest.mark.parametrize("method", WRITES)
async def test_a_star_matches_any_version(alice: Account, method: str) -> None:
    task = await alice.create_task(external_id="e")

    assert (await send(alice, method, task, "*")).status_code == 200


@pytest.mark.parametrize("method", WRITES)
async def test_a_condition_that_cannot_be_read_is_refused(alice: Account, method: str) -> None:
    task = await alice.create_task(external_id="e")
    for lines in [
        ("",),
        ("7-1",),
        ("*, *",),
        (etag(task), "*"),
        (etag(task)[:-1],),
        (f"w/{etag(task)}",),
        (f"{etag(task)} {etag(task)}",),
        ('"a b"',),
        (",",),
    ]:
        response = await send(alice, method, task, *lines)
        assert_error(response, 400, "validation_failed", fields={"header.if-match": "invalid"})
    assert (await alice.client.get(path_of(task))).json()["data"] == task
    response = await alice.client.get(path_of(task), headers={"If-None-Match": "7-1"})
    assert_error(response, 400, "validation_failed", fields={"header.if-none-match": "invalid"})


async def test_a_missing_task_is_missing_before_any_condition(alice: Account, bob: Account) -> None:
    trashed = await alice.create_task(external_id="e")
    await alice.client.delete(path_of(trashed))
    anothers = await bob.create_task()
    for line in ('"1-1"', "*", etag(trashed)):
        for task in (trashed, anothers, {"id": 999_999_999}):
            for method in ("PATCH", "DELETE"):
                response = await send(alice, method, task, line)
                assert_error(response, 404, "task_not_found")
        assert_error(await send(alice, "POST", anothers, line), 404, "task_not_found")
        # By its external id a task may be made; under a condition it must be there.
        assert_error(await send(alice, "PUT", trashed, line), 412, "version_conflict")


async def test_a_task_in_the_trash_is_removed_or_restored_in_its_version_alone(
    alice: Account,
) -> None:
    task = await alice.create_task()
    await alice.client.delete(path_of(task))
    assert_error(await send(alice, "POST", task, etag(task)), 412, "version_conflict")
    response = await alice.client.delete(
        f"{path_of(task)}?permanent=true", headers={"If-Match": etag(task)}
    )
    assert_error(response, 412, "version_conflict")
    restored = await send(alice, "POST", task, f'"{task["id"]}-2"')
    assert restored.json()["data"]["version"] == 3


async def test_a_patch_of_nothing_is_conditional_too(alice: Account) -> None:
    task = await alice.create_task()
    for body in ({}, {"title": task["title"]}):
        response = await alice.client.patch(
            path_of(task), json=body, headers={"If-Match": f'"{task["id"]}-2"'}
        )
        assert_error(response, 412, "version_conflict")
        response = await alice.client.patch(
            path_of(task), json=body, headers={"If-Match": etag(task)}
        )
        assert response.json()["data"] == task


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_of_concurrent_writes_in_one_version_exactly_one_wins(
    alice: Account, method: str
) -> None:
    task = await alice.create_task(external_id="e")
    path = path_of(task) if method == "PATCH" else "/api/v1/tasks/external/e"
    for version in range(1, 4):
        responses = await asyncio.gather(
            *(
                alice.client.request(
                    method,
                    path,
                    json={"title": f"{version} by {number}"},
                    headers={"If-Match": f'"{task["id"]}-{version}"'},
                )
                for number in range(8)
            )
        )
        assert sorted(response.status_code for response in responses) == [200] + [412] * 7
        (winner,) = [response.json()["data"] for response in responses if response.is_success]
        assert (await alice.client.get(path_of(task))).json()["data"] == winner
        assert winner["version"] == version + 1


async def test_of_concurrent_deletions_and_patches_in_one_version_one_wins(alice: Account) -> None:
    for _ in range(5):
        task = await alice.create_task()
        headers = {"If-Match": etag(task)}
        responses = await asyncio.gather(
            *(alice.client.delete(path_of(task), headers=headers) for _ in range(3)),
            *(
                alice.client.patch(path_of(task), json={"title": f"{number}"}, headers=headers)
                for number in range(3)
            ),
        )
        assert sum(response.is_success for response in responses) == 1
        assert {response.status_code for response in responses} <= {200, 404, 412}


@pytest.mark.parametrize(
    ("method", "path", "header"),
    [
        ("POST", "", "If-None-Match"),
        ("POST", "", "If-Match"),
        ("POST", "/batch", "If-Match"),
        ("PATCH", "/{id}", "If-None-Match"),
        ("DELETE", "/{id}", "If-None-Match"),
        ("POST", "/{id}/restore", "If-None-Match"),
    ],
)
async def test_a_write_is_refused_under_a_condition_that_it_does_not_know(
    alice: Account, method: str, path: str, header: str
) -> None:
    task = await alice.create_task()
    response = await alice.client.request(
        method, f"/api/v1/tasks{path.format(**task)}", headers={header: "*"}
    )

    assert_error(response, 400, "validation_failed", fields={f"header.{header.lower()}": "unknown"})
    assert (await alice.client.get("/api/v1/tasks")).json()["data"]["tasks"] == [task]
