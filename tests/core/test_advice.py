"""Errors say what to do: the likeliest mistakes of somebody new, and the words that help."""

from typing import Any

import pytest

from tests.support import Account

TASKS = "/api/v1/tasks"


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("prio=high", "query.prio", "is priority meant?"),
        ("limit=5", "query.limit", "there are page, per_page"),
        ("status=pending,completed", "query.status", "repeat the parameter"),
        ("time_zone=Berlin", "query.time_zone", "such as Europe/Berlin"),
        ("page=1&cursor=WyJh", "query.cursor", "page are not taken together"),
        ("cursor=WyJh", "query.cursor", "with these filters, sort and time zone"),
    ],
)
async def test_a_wrong_parameter_of_a_list(
    alice: Account, query: str, field: str, words: str
) -> None:
    response = await alice.client.get(f"{TASKS}?{query}")

    assert response.status_code == 400
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'\xef\xbb\xbf{"title":"x"}', 400, "byte order mark"),
        (b'{"title":"x","description":null}', 400, "valid string, and not null"),
        (b'{"title":"' + b"x" * 2**20 + b'"}', 413, "1,048,576 bytes at most"),
    ],
)
async def test_a_wrong_body(alice: Account, body: bytes, status: int, words: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = await alice.client.post(TASKS, content=body, headers=headers)

    assert response.status_code == status
    assert words in response.text


async def test_an_external_id_with_slashes_of_its_own(alice: Account) -> None:
    url = f"{TASKS}/external/crm/4711"
    response = await alice.client.put(url, json={"title": "x"})

    assert response.status_code == 404
    assert "percent-encode its slashes" in response.json()["message"]


async def test_a_parameter_where_there_is_none(alice: Account) -> None:
    response = await alice.client.get("/api/v1/users/me?verbose=true")

    assert "this call has none" in response.text


async def test_a_credential_that_is_not_sent_or_lacks_a_scope(alice: Account) -> None:
    key: dict[str, Any] = {"name": "reader", "scopes": ["tasks:read"]}
    token = (await alice.client.post("/api/v1/api-keys", json=key)).json()["data"]["key"]
    as_reader = {"Authorization": f"Bearer {token}"}
    refused = await alice.client.post(TASKS, json={"title": "x"}, headers=as_reader)
    stranger = await alice.client.get(TASKS, headers={"Authorization": ""})

    assert refused.json()["message"].endswith(": tasks:write")
    assert "Authorization: Bearer" in stranger.json()["message"]


async def test_a_username_of_other_characters(alice: Account) -> None:
    account = {"username": "bob smith", "email": "bob@example.com", "password": "correct horse"}
    response = await alice.client.post("/api/v1/users", json=account)

    (error,) = response.json()["errors"]
    assert error["field"] == "body.username"
    assert "ASCII letters, digits" in error["message"]
