"""PATCH /api/v1/users/me."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, Account, assert_error


async def test_name_and_address_change_and_what_is_absent_stays(new_account: NewAccount) -> None:
    ada: Account = await new_account(password_hash=CHEAP_HASH)
    before = (await ada.client.get("/api/v1/users/me")).json()["data"]
    name = f"New-{uuid4().hex[:10]}"
    response = await ada.client.patch("/api/v1/users/me", json={"username": name})

    assert response.status_code == 200
    assert response.json()["message"] == "User updated"
    assert response.json()["data"] == before | {"username": name}
    email = f"{name}@Example.COM"
    response = await ada.client.patch("/api/v1/users/me", json={"email": email})
    assert response.json()["data"] == before | {"username": name, "email": email}
    form = {"grant_type": "password", "username": email.lower(), "password": "correct horse"}
    assert (await ada.client.post("/api/v1/auth/token", data=form)).status_code == 200


async def test_a_patch_that_changes_nothing_answers_the_account(alice: Account) -> None:
    for body in ({}, {"username": alice.username}):
        response = await alice.client.patch("/api/v1/users/me", json=body)
        assert response.status_code == 200
        assert response.json()["data"]["username"] == alice.username


async def test_names_of_others_are_taken_and_the_own_in_another_case_is_not(
    alice: Account, bob: Account
) -> None:
    taken = await alice.client.patch("/api/v1/users/me", json={"username": bob.username.upper()})
    assert_error(taken, 409, "username_taken", fields={"body.username": "duplicate"})
    taken = await alice.client.patch(
        "/api/v1/users/me", json={"email": f"{bob.username.upper()}@example.com"}
    )
    assert_error(taken, 409, "email_taken", fields={"body.email": "duplicate"})
    own = await alice.client.patch("/api/v1/users/me", json={"username": alice.username.upper()})
    assert own.status_code == 200


async def test_of_two_who_want_one_name_at_once_one_gets_it(alice: Account, bob: Account) -> None:
    name = f"wanted-{uuid4().hex[:8]}"
    responses = await asyncio.gather(
        *(
            account.client.patch("/api/v1/users/me", json={"username": name})
            for account in (alice, bob)
        )
    )

    assert sorted(response.status_code for response in responses) == [200, 409]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"username": None}, {"body.username": "wrong_type"}),
        ({"username": "a"}, {"body.username": "too_short"}),
        ({"email": "nobody"}, {"body.email": "invalid"}),
        ({"password": "secret"}, {"body.password": "unknown"}),
        ({"is_active": False}, {"body.is_active": "unknown"}),
        ({"id": 1}, {"body.id": "unknown"}),
    ],
)
async def test_a_field_that_breaks_the_schema_is_named(
    alice: Account, body: dict[str, Any], fields: dict[str, str]
) -> None:
    response = await alice.client.patch("/api/v1/users/me", json=body)

    assert_error(response, 400, "validation_failed", fields=fields)


async def test_reading_rights_are_not_enough(new_account: NewAccount) -> None:
    reader: Account = await new_account(scopes=["account:read", "tasks:write"])
    response = await reader.client.patch("/api/v1/users/me", json={"username": "abc"})

    assert_error(response, 403, "insufficient_scope")
