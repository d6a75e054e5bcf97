"""An answer that the document does not know fails the test that got it."""

from typing import Any

import httpx
import pytest

from tests.contract.conformance import UndocumentedAnswer

TASK = {
    "id": 7,
    "title": "Water",
    "description": "",
    "status": "pending",
    "priority": "medium",
    "owner_id": 1,
    "tags": [],
    "due_at": None,
    "due_on": None,
    "completed_at": None,
    "external_id": None,
    "metadata": {"anything": {"at": "all"}},
    "version": 1,
    "created_at": "2026-11-22T09:30:00.000000Z",
    "updated_at": "2026-11-22T09:30:00.000000Z",
}
FOUND = {"status": "success", "message": "ok", "data": TASK}
REFUSED = {
    "status": "error",
    "message": "There is no such task",
    "code": "task_not_found",
    "request_id": "5f0c1c9e",
}
NAMED = {"X-Request-ID": "5f0c1c9e"}
TAGGED = {**NAMED, "ETag": '"7-1"'}
JSON = {"Content-Type": "application/json"}
Lie = tuple[str, str, httpx.Response]

HONEST: dict[str, Lie] = {
    "a task": ("GET", "/api/v1/tasks/7", httpx.Response(200, headers=TAGGED, json=FOUND)),
    "the head of a task": (
        "HEAD",
        "/api/v1/tasks/7",
        httpx.Response(200, headers={**TAGGED, **JSON, "Content-Length": "400"}),
    ),
    "no change": ("GET", "/api/v1/tasks/7", httpx.Response(304, headers=TAGGED)),
    "no task": ("GET", "/api/v1/tasks/7", httpx.Response(404, headers=NAMED, json=REFUSED)),
    "an unknown path": (
        "GET",
        "/nowhere",
        httpx.Response(404, headers=NAMED, json={**REFUSED, "code": "not_found"}),
    ),
    "an unknown method": (
        "PUT",
        "/health",
        httpx.Response(405, headers={**NAMED, "Allow": "GET"}, json=REFUSED),
    ),
    "a page": ("GET", "/docs", httpx.Response(200, html="<!doctype html>")),
    "a preflight": ("OPTIONS", "/api/v1/tasks", httpx.Response(204, headers=NAMED)),
    "a parameter with a slash": (
        "PUT",
        "/api/v1/tasks/external/crm%2F7",
        httpx.Response(200, headers=TAGGED, json=FOUND),
    ),
}


def task(status: int = 200, headers: dict[str, str] = TAGGED, **changes: Any) -> Lie:
    answer = {**FOUND, "data": {**TASK, **changes}}
    return "GET", "/api/v1/tasks/7", httpx.Response(status, headers=headers, json=answer)


def error(path: str = "/api/v1/tasks/7", status: int = 404, **changes: Any) -> Lie:
    answer = httpx.Response(status, headers=NAMED, json={**REFUSED, **changes})
    return "GET", path, answer


LIES: dict[str, tuple[Lie, str]] = {
    "a status": (task(status=202), "status 202 is not documented"),
    "an error's status": (error(status=410), "status 410 is not documented"),
    "a status of another method": (
        ("DELETE", "/api/v1/tasks/7", httpx.Response(304, headers=TAGGED)),
        "status 304 is not documented",
    ),
    "a media type": (
        ("GET", "/api/v1/tasks/7", httpx.Response(200, headers=TAGGED, text="7")),
        "media type 'text/plain' is not documented",
    ),
    "no media type": (
        ("GET", "/api/v1/tasks/7", httpx.Response(200, headers=TAGGED)),
        "media type '' is not documented",
    ),
    "no JSON": (
        ("GET", "/api/v1/tasks/7", httpx.Response(200, headers=TAGGED | JSON, content=b"{")),
        "the body is not JSON",
    ),
    "a body": (
        ("POST", "/api/v1/auth/revoke", httpx.Response(200, headers=NAMED, json={})),
        "there should be no body",
    ),
    "a field": (task(secret="hash"), "body.data: Additional properties are not allowed"),
    "an envelope's field": (
        ("GET", "/health", httpx.Response(200, headers=NAMED, json={"hello": "world"})),
        "body: Additional properties are not allowed",
    ),
    "a field of an error": (error(trace="line 1"), "body: Additional properties are not allowed"),
    "a field's type": (task(version="1"), 'body.data.version: the value is not of type "integer"'),
    "a field's format": (task(due_at="yesterday"), "body.data.due_at: the value is not a"),
    "a value": (task(status=200, priority="urgent"), "body.data.priority: the value is not one of"),
    "a missing header": (task(headers=NAMED), "header etag is missing"),
    "a missing id": (task(headers={"ETag": '"7-1"'}), "header x-request-id is missing"),
    "a header": (
        task(headers={**TAGGED, "X-Powered-By": "Python"}),
        "header x-powered-by is not documented",
    ),
    "a header of another operation": (
        task(headers={**TAGGED, "Location": "/api/v1/tasks/7"}),
        "header location is not documented",
    ),
    "a header's value": (task(headers={**NAMED, "ETag": "W/7"}), "header etag: the value"),
    "an error's code": (error(code="api_key_not_found"), "code 'api_key_not_found' is not"),
    "an unknown path without an envelope": (
        ("GET", "/nowhere", httpx.Response(404, headers=NAMED, json={"detail": "Not Found"})),
        "body: ",
    ),
    "an unknown method without Allow": (
        ("PUT", "/health", httpx.Response(405, headers=NAMED, json=REFUSED)),
        "header allow is missing",
    ),
    "a hidden operation": (
        ("GET", "/api/v1/secrets", httpx.Response(200, headers=NAMED, json=FOUND)),
        "a success, 200, of something that is not documented",
    ),
}


@pytest.mark.parametrize("name", HONEST)
async def test_what_the_document_says_passes(name: str) -> None:
    method, path, answer = HONEST[name]

    assert await ask(method, path, answer) is answer


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_fails_the_test_that_hears_it(name: str) -> None:
    (method, path, answer), told = LIES[name]

    with pytest.raises(UndocumentedAnswer) as caught:
        await ask(method, path, answer)

    assert told in str(caught.value)


def test_a_synchronous_client_is_watched_too() -> None:
    method, path, answer = task(secret="hash")
    transport = httpx.MockTransport(lambda _: answer)
    with (
        httpx.Client(transport=transport) as client,
        pytest.raises(UndocumentedAnswer, match="Additional properties"),
    ):
        client.request(method, f"http://test{path}")


async def test_lies_in_the_head_of_a_streamed_answer_are_heard() -> None:
    (method, path, answer), _ = LIES["a header"]
    transport = httpx.MockTransport(lambda _: answer)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(UndocumentedAnswer, match="x-powered-by"):
            async with client.stream(method, f"http://test{path}"):
                pass


async def test_no_value_of_an_answer_is_told() -> None:
    with pytest.raises(UndocumentedAnswer) as caught:
        await ask(*task(title=["a secret"]))

    assert "a secret" not in str(caught.value)


async def ask(method: str, path: str, answer: httpx.Response) -> httpx.Response:
    transport = httpx.MockTransport(lambda _: answer)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.request(method, f"http://test{path}")
