"""POST /api/v1/users/me/close."""

import asyncio

import pytest
from sqlalchemy import text

from app.db.session import Database
from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, PASSWORD, Account, assert_error, waiting_for_a_lock

PATH = "/api/v1/users/me/close"


@pytest.fixture
async def ada(new_account: NewAccount) -> Account:
    return await new_account(password_hash=CHEAP_HASH)


async def rows_of(database: Database, account: Account) -> list[int]:
    queries = (
        "SELECT count(*) FROM users WHERE id = :id",
        "SELECT count(*) FROM tasks WHERE owner_id = :id",
        "SELECT count(*) FROM credentials WHERE user_id = :id",
    )
    async with database.session() as session:
        return [await session.scalar(text(query), {"id": account.id}) or 0 for query in queries]


async def test_the_account_and_all_it_owns_are_gone_and_its_name_is_free(
    ada: Account, bob: Account, database: Database
) -> None:
    await ada.create_task()
    kept = await bob.create_task()
    response = await ada.client.post(PATH, json={"password": PASSWORD})

    assert response.status_code == 200
    assert response.json() == {"status": "success", "message": "Account closed", "data": None}
    assert await rows_of(database, ada) == [0, 0, 0]
    assert_error(await ada.client.get("/api/v1/tasks"), 401, "unauthenticated")
    assert await ada.log_in() == ""
    assert (await bob.client.get(f"/api/v1/tasks/{kept['id']}")).status_code == 200
    again = {"username": ada.username, "email": f"{ada.username}@example.com", "password": "secret"}
    assert (await ada.client.post("/api/v1/users", json=again)).status_code == 201


async def test_a_wrong_password_closes_nothing_and_is_named(
    ada: Account, database: Database
) -> None:
    await ada.create_task()
    response = await ada.client.post(PATH, json={"password": "wrong"})

    assert_error(response, 400, "validation_failed", fields={"body.password": "incorrect"})
    assert await rows_of(database, ada) == [1, 1, 1]


async def test_creating_while_the_account_closes_is_a_201_or_a_401_and_leaves_nothing(
    ada: Account, database: Database
) -> None:
    closed, *created = await asyncio.gather(
        ada.client.post(PATH, json={"password": PASSWORD}),
        *(ada.client.post("/api/v1/tasks", json={"title": "Late"}) for _ in range(15)),
    )

    assert closed.status_code == 200
    assert {response.status_code for response in created} <= {201, 401}
    assert await rows_of(database, ada) == [0, 0, 0]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}])
async def test_a_task_for_an_account_that_closes_meanwhile_is_a_401(
    ada: Account, database: Database, headers: dict[str, str]
) -> None:
    async with database.transaction() as session:
        # The account is gone in a transaction that is not committed yet: the insertion still sees
        # a live credential, and its foreign key waits for us.
        await session.execute(text("DELETE FROM users WHERE id = :id"), {"id": ada.id})
        creating = asyncio.create_task(
            ada.client.post("/api/v1/tasks", json={"title": "Late"}, headers=headers)
        )
        await waiting_for_a_lock(database)

    assert_error(await creating, 401, "unauthenticated")
