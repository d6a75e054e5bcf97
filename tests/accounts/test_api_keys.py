"""POST, GET and DELETE /api/v1/api-keys: credentials for machines."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text

from app.accounts.credentials import SCOPES, Actor, ActorCache
from app.accounts.models import Credential, CredentialKind
from app.accounts.schemas import MAXIMUM_KEYS
from app.core.security import ALPHABET, is_well_formed_token
from app.db.session import Database
from tests.conftest import NewAccount
from tests.support import Account, assert_error, http_client, make_credential, waiting_for_a_lock


def machine(account: Account, key: str) -> httpx.AsyncClient:
    return http_client(str(account.client.base_url), {"Authorization": f"Bearer {key}"})


async def listed(account: Account) -> list[dict[str, Any]]:
    response = await account.client.get("/api/v1/api-keys")
    assert response.status_code == 200, response.text
    keys: list[dict[str, Any]] = response.json()["data"]["api_keys"]
    return keys


async def test_a_key_is_shown_once_and_works_like_a_login(alice: Account) -> None:
    body = {"name": "  nightly import ", "scopes": ["tasks:write", "tasks:read"]}
    response = await alice.client.post("/api/v1/api-keys", json=body)

    assert response.status_code == 201
    assert response.json()["message"] == "API key created"
    made = response.json()["data"]
    key = made.pop("key")
    assert made == {
        "id": made["id"],
        "name": "nightly import",
        "prefix": key[:8],
        "scopes": ["tasks:read", "tasks:write"],
        "created_at": made["created_at"],
        "last_used_at": None,
        "expires_at": None,
    }
    assert await listed(alice) == [made]
    async with machine(alice, key) as client:
        created = await client.post("/api/v1/tasks", json={"title": "By a machine"})
        assert created.json()["data"]["owner_id"] == alice.id
        assert_error(await client.get("/api/v1/users/me"), 403, "insufficient_scope")


async def test_a_key_has_a_prefix_160_random_bits_beyond_what_is_shown_and_a_checksum(
    alice: Account,
) -> None:
    keys = [await alice.create_api_key() for _ in range(3)]

    for key in keys:
        assert re.fullmatch(r"tfk_[0-9A-Za-z]{38}", key["key"])
        assert is_well_formed_token(key["key"], prefixes=("tfk_",))
        hidden = len(key["key"]) - len(key["prefix"]) - 6
        assert len(ALPHABET) ** hidden > 2**160
    assert len({key["key"] for key in keys}) == 3


async def test_a_deleted_key_is_worth_nothing_with_the_next_request(alice: Account) -> None:
    key = await alice.create_api_key()
    async with machine(alice, key["key"]) as client:
        assert (await client.get("/api/v1/users/me")).status_code == 200
        response = await alice.client.delete(f"/api/v1/api-keys/{key['id']}")
        assert response.status_code == 200
        assert response.json() == {"status": "success", "message": "API key deleted", "data": None}
        assert_error(await client.get("/api/v1/users/me"), 401, "unauthenticated")
    assert await listed(alice) == []
    again = await alice.client.delete(f"/api/v1/api-keys/{key['id']}")
    assert_error(again, 404, "api_key_not_found")


async def test_a_key_may_delete_itself_and_is_revoked_like_a_login(alice: Account) -> None:
    first, second = await alice.create_api_key(), await alice.create_api_key()
    async with machine(alice, first["key"]) as client:
        assert (await client.delete(f"/api/v1/api-keys/{first['id']}")).status_code == 200
        revoked = await client.post("/api/v1/auth/revoke", data={"token": second["key"]})
        assert revoked.status_code == 200
    async with machine(alice, second["key"]) as client:
        assert_error(await client.get("/api/v1/users/me"), 401, "unauthenticated")
    assert await listed(alice) == []


@pytest.mark.parametrize("key_id", ["0", "-1", "abc", "01", "1.0", str(2**53), str(2**70), "%00"])
async def test_what_is_no_id_of_a_key_is_not_found(alice: Account, key_id: str) -> None:
    assert_error(await alice.client.delete(f"/api/v1/api-keys/{key_id}"), 404, "api_key_not_found")


async def test_a_login_is_no_key_and_cannot_be_deleted_as_one(alice: Account) -> None:
    response = await alice.client.delete(f"/api/v1/api-keys/{alice.credential_id}")
    assert_error(response, 404, "api_key_not_found")
    assert await listed(alice) == []


async def test_keys_are_listed_newest_first_and_to_their_owner_only(
    alice: Account, bob: Account
) -> None:
    for name in ("first", "second"):
        await alice.create_api_key(name=name)
    assert [key["name"] for key in await listed(alice)] == ["second", "first"]
    assert await listed(bob) == []


@pytest.mark.parametrize("asked", [["tasks:write"], ["tasks:read", "account:read"], list(SCOPES)])
async def test_a_key_is_never_wider_than_its_maker(
    new_account: NewAccount, asked: list[str]
) -> None:
    narrow = await new_account(scopes=["tasks:read", "account:write"])
    body = {"name": "wider", "scopes": asked}
    response = await narrow.client.post("/api/v1/api-keys", json=body)

    assert_error(response, 403, "insufficient_scope")
    key = await narrow.create_api_key(scopes=["tasks:read"])
    assert key["scopes"] == ["tasks:read"]


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"name": None}, "name", "wrong_type"),
        ({"name": ""}, "name", "too_short"),
        ({"name": " \u200b "}, "name", "too_short"),
        ({"name": "x" * 101}, "name", "too_long"),
        ({"name": "a\x00b"}, "name", "invalid"),
        ({"scopes": []}, "scopes", "too_short"),
        ({"scopes": "tasks:read"}, "scopes", "wrong_type"),
        ({"scopes": ["tasks:read", "tasks:read"]}, "scopes", "duplicate"),
        ({"scopes": ["tasks:everything"]}, "scopes[0]", "invalid"),
        ({"scopes": ["tasks:read", 7]}, "scopes[1]", "wrong_type"),
        ({"expires_at": "2026-01-01T00:00:00Z"}, "expires_at", "out_of_range"),
        ({"expires_at": "2100-01-01T00:00:00"}, "expires_at", "invalid"),
        ({"expires_at": "2100-01-01"}, "expires_at", "invalid"),
        ({"expires_at": 4102444800}, "expires_at", "wrong_type"),
        ({"expires_at": "9999-12-31T23:59:59-01:00"}, "expires_at", "out_of_range"),
        ({"user_id": 1}, "user_id", "unknown"),
    ],
)
async def test_bad_input_is_refused_by_name(
    alice: Account, changes: dict[str, Any], field: str, code: str
) -> None:
    body = {"name": "machine", "scopes": ["tasks:read"]} | changes
    response = await alice.client.post("/api/v1/api-keys", json=body)

    assert_error(response, 400, "validation_failed", fields={f"body.{field}": code})
    assert await listed(alice) == []


@pytest.mark.parametrize("missing", ["name", "scopes"])
async def test_a_missing_field_is_named(alice: Account, missing: str) -> None:
    body: dict[str, Any] = {"name": "machine", "scopes": ["tasks:read"]}
    del body[missing]
    response = await alice.client.post("/api/v1/api-keys", json=body)
    assert_error(response, 400, "validation_failed", fields={f"body.{missing}": "missing"})


async def test_the_end_of_a_key_has_microseconds_also_on_a_whole_second(alice: Account) -> None:
    key = await alice.create_api_key(expires_at="2100-01-01T02:00:00+02:00")
    assert key["expires_at"] == "2100-01-01T00:00:00.000000Z"
    assert [one["expires_at"] for one in await listed(alice)] == [key["expires_at"]]


async def test_a_key_ends_when_it_was_told_to_and_stays_listed(
    alice: Account, database: Database
) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    key = await alice.create_api_key(expires_at=ends.isoformat())
    assert datetime.fromisoformat(key["expires_at"]) == ends
    async with machine(alice, key["key"]) as client:
        assert (await client.get("/api/v1/users/me")).status_code == 200
        async with database.session() as session:
            statement = text("UPDATE credentials SET expires_at = now() WHERE id = :id")
            await session.execute(statement, {"id": key["id"]})
        assert_error(await client.get("/api/v1/users/me"), 401, "unauthenticated")
    assert [found["id"] for found in await listed(alice)] == [key["id"]]


async def test_null_as_the_end_means_never(alice: Account) -> None:
    assert (await alice.create_api_key(expires_at=None))["expires_at"] is None


async def test_an_account_has_a_bounded_number_of_keys(alice: Account, database: Database) -> None:
    rows = [
        {
            "user_id": alice.id,
            "kind": CredentialKind.API_KEY,
            "digest": f"{alice.id}/{number}".encode(),
            "scopes": ["tasks:read"],
            "name": "one of many",
            "prefix": "tfk_0000",
        }
        for number in range(MAXIMUM_KEYS)
    ]
    async with database.session() as session:
        await session.execute(insert(Credential).values(rows))
    body = {"name": "one too many", "scopes": ["tasks:read"]}
    assert_error(await alice.client.post("/api/v1/api-keys", json=body), 409, "too_many_api_keys")

    newest = (await listed(alice))[0]["id"]
    assert (await alice.client.delete(f"/api/v1/api-keys/{newest}")).status_code == 200
    assert (await alice.client.post("/api/v1/api-keys", json=body)).status_code == 201


async def test_use_is_noted_at_most_once_a_minute(alice: Account, database: Database) -> None:
    token, credential_id = await make_credential(database, alice.id, kind=CredentialKind.API_KEY)

    async def noted() -> str | None:
        (found,) = [key for key in await listed(alice) if key["id"] == credential_id]
        last_used_at: str | None = found["last_used_at"]
        return last_used_at

    assert await noted() is None
    async with machine(alice, token) as client:
        await client.get("/api/v1/users/me")
        first = await noted()
        await client.get("/api/v1/users/me")
        assert first is not None
        assert await noted() == first


def test_a_worker_notes_the_use_of_a_credential_again_after_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = ActorCache()
    cache.put(b"digest", Actor(1, 1, frozenset()))
    answers = []
    for now in (7, 37, 67):
        clock = SimpleNamespace(monotonic=lambda now=now: now)
        monkeypatch.setattr("app.accounts.credentials.time", clock)
        answers.append(cache.use_is_due(b"digest"))
    assert answers == [True, False, True]


async def test_workers_that_meet_a_credential_within_a_minute_write_once(
    alice: Account, database: Database
) -> None:
    token, credential_id = await make_credential(database, alice.id)
    recently = "UPDATE credentials SET last_used_at = now() - interval '50 s' WHERE id = :id"
    read = "SELECT last_used_at FROM credentials WHERE id = :id"
    async with database.session() as session:
        await session.execute(text(recently), {"id": credential_id})
        before = await session.scalar(text(read), {"id": credential_id})
        async with machine(alice, token) as client:
            assert (await client.get("/api/v1/users/me")).status_code == 200
        assert await session.scalar(text(read), {"id": credential_id}) == before


async def test_an_ended_credential_makes_lists_and_deletes_no_keys(
    alice: Account, database: Database
) -> None:
    key = await alice.create_api_key()
    async with database.session() as session:
        statement = text("UPDATE credentials SET revoked_at = now() WHERE id = :id")
        await session.execute(statement, {"id": alice.credential_id})
    body = {"name": "too late", "scopes": ["tasks:read"]}
    for response in (
        await alice.client.post("/api/v1/api-keys", json=body),
        await alice.client.get("/api/v1/api-keys"),
        await alice.client.delete(f"/api/v1/api-keys/{key['id']}"),
    ):
        assert_error(response, 401, "unauthenticated")
    async with machine(alice, key["key"]) as client:
        keys = (await client.get("/api/v1/api-keys")).json()["data"]["api_keys"]
        assert [found["id"] for found in keys] == [key["id"]]


async def test_a_key_made_while_the_account_is_deactivated_or_closed_is_none(
    new_account: NewAccount, database: Database
) -> None:
    body = {"name": "in between", "scopes": ["account:write"]}
    endings = [
        [
            "UPDATE users SET is_active = false WHERE id = :id",
            "UPDATE credentials SET revoked_at = now() WHERE user_id = :id",
        ],
        ["DELETE FROM users WHERE id = :id"],
    ]
    for statements in endings:
        account = await new_account()
        assert (await account.client.get("/api/v1/users/me")).status_code == 200
        async with database.transaction() as session:
            for statement in statements:
                await session.execute(text(statement), {"id": account.id})
            making = asyncio.create_task(account.client.post("/api/v1/api-keys", json=body))
            # It waits for the lock of the transaction.
            await waiting_for_a_lock(database)
        assert_error(await making, 401, "unauthenticated")
        async with database.session() as session:
            live = text(
                "SELECT count(*) FROM credentials WHERE user_id = :id AND revoked_at IS NULL"
            )
            assert await session.scalar(live, {"id": account.id}) == 0


async def test_the_number_of_keys_is_exact_also_for_many_at_once(
    alice: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.accounts.api_keys.MAXIMUM_KEYS", 3)
    body = {"name": "one of many", "scopes": ["tasks:read"]}
    responses = await asyncio.gather(
        *(alice.client.post("/api/v1/api-keys", json=body) for _ in range(8))
    )
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [201] * 3 + [409] * 5
    assert len(await listed(alice)) == 3
