"""POST /api/v1/users/me/password."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from app.db.session import Database
from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, PASSWORD, Account, assert_error, waiting_for_a_lock

PATH = "/api/v1/users/me/password"
NEW = "a new password"


@pytest.fixture
async def ada(new_account: NewAccount) -> Account:
    return await new_account(password_hash=CHEAP_HASH)


async def is_live(account: Account, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    response = await account.client.get("/api/v1/users/me", headers=headers)
    return response.status_code == 200


async def test_the_new_password_counts_and_every_other_login_ends(ada: Account) -> None:
    other = await ada.log_in()
    assert await is_live(ada, other)
    body = {"current_password": PASSWORD, "new_password": NEW}
    response = await ada.client.post(PATH, json=body)

    assert response.status_code == 200
    assert response.json() == {"status": "success", "message": "Password changed", "data": None}
    assert not await is_live(ada, other)
    assert await is_live(ada, ada.token)
    assert await ada.log_in() == ""
    assert await ada.log_in(NEW)


async def test_a_wrong_current_password_changes_nothing_and_is_named(ada: Account) -> None:
    other = await ada.log_in()
    body = {"current_password": "wrong", "new_password": NEW}
    response = await ada.client.post(PATH, json=body)

    assert_error(response, 400, "validation_failed", fields={"body.current_password": "incorrect"})
    assert await is_live(ada, other)
    assert await ada.log_in()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"current_password": PASSWORD}, {"body.new_password": "missing"}),
        ({"new_password": NEW}, {"body.current_password": "missing"}),
        (
            {"current_password": PASSWORD, "new_password": "short"},
            {"body.new_password": "too_short"},
        ),
        (
            {"current_password": "x" * 129, "new_password": "x" * 129},
            {"body.current_password": "too_long", "body.new_password": "too_long"},
        ),
        (
            {"current_password": PASSWORD, "new_password": NEW, "user_id": 1},
            {"body.user_id": "unknown"},
        ),
    ],
)
async def test_a_field_that_breaks_the_schema_is_named(
    ada: Account, body: dict[str, Any], fields: dict[str, str]
) -> None:
    assert_error(await ada.client.post(PATH, json=body), 400, "validation_failed", fields=fields)


@pytest.mark.usefixtures("costly_passwords")
async def test_of_two_changes_at_once_one_wins_and_its_password_counts(ada: Account) -> None:
    new = ["first password", "second password"]
    responses = await asyncio.gather(
        *(
            ada.client.post(PATH, json={"current_password": PASSWORD, "new_password": password})
            for password in new
        )
    )

    assert sorted(response.status_code for response in responses) == [200, 400]
    winner = new[[response.status_code for response in responses].index(200)]
    assert [bool(await ada.log_in(password)) for password in new] == [
        password == winner for password in new
    ]


@pytest.mark.parametrize("change", ["password_hash = 'another'", "is_active = false"])
async def test_a_login_that_meets_a_change_of_the_account_waits_for_it_and_is_refused(
    ada: Account, database: Database, change: str
) -> None:
    async with database.transaction() as session:
        statement = text(f"UPDATE users SET {change} WHERE id = :id")  # noqa: S608 - from the list
        await session.execute(statement, {"id": ada.id})
        login = asyncio.create_task(ada.log_in())
        await waiting_for_a_lock(database)
    assert await login == ""


@pytest.mark.usefixtures("costly_passwords")
async def test_no_login_made_with_the_old_password_survives_a_change_that_it_meets(
    ada: Account,
) -> None:
    body = {"current_password": PASSWORD, "new_password": NEW}
    changing = asyncio.create_task(ada.client.post(PATH, json=body))
    tokens = await asyncio.gather(*(ada.log_in() for _ in range(8)))
    changed = await changing

    assert changed.status_code == 200
    assert [token for token in tokens if token and await is_live(ada, token)] == []
