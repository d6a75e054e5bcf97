"""401 in all its forms, and the end of a credential holding at once, everywhere."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.accounts.credentials import Actor, ActorCache
from app.core.security import PasswordHasher, is_well_formed_token, new_token, token_digest
from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from tests.conftest import NewAccount
from tests.support import (
    CHEAP_HASH,
    PASSWORD,
    SECRET_KEY,
    Account,
    assert_error,
    http_client,
    served,
    statements_of,
    until,
)

ENDINGS = {
    "revoked": "UPDATE credentials SET revoked_at = now() WHERE id = :id",
    "expired": "UPDATE credentials SET expires_at = now() WHERE id = :id",
    "deleted": "DELETE FROM credentials WHERE id = :id",
}


async def end_credential(database: Database, account: Account, how: str) -> None:
    async with database.session() as session:
        await session.execute(text(ENDINGS[how]), {"id": account.credential_id})


STRANGERS = {
    "nothing": None,
    "an empty header": "",
    "a scheme alone": "Bearer",
    "another scheme": "Basic YWRhOnNlY3JldA==",
    "a word": "Bearer null",
    "a prefix alone": "Bearer tfu_",
    "thousands of characters": "Bearer " + "x" * 5000,
    "an unknown token": "Bearer " + new_token("tfu_"),
    "an unknown token of another kind": "Bearer " + new_token("tfk_"),
    "an unknown scheme": "Token " + new_token("tfu_"),
    "a letter outside ASCII": "Bearer " + new_token("tfu_")[:-1] + "é",
    "two tokens": "Bearer " + new_token("tfu_") + " " + new_token("tfu_"),
    "no scheme": new_token("tfu_"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_a_stranger_is_refused_before_a_word_about_the_body(
    client: httpx.AsyncClient, stranger: str
) -> None:
    authorization = STRANGERS[stranger]
    headers = {} if authorization is None else {b"Authorization": authorization.encode()}
    response = await client.post("/api/v1/tasks", headers=headers, content=b"{not json")

    assert_error(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_two_credentials_in_one_request_are_refused(alice: Account) -> None:
    header = ("Authorization", f"Bearer {alice.token}")
    async with http_client(str(alice.client.base_url)) as client:
        response = await client.get("/api/v1/users/me", headers=[header, header])

    assert_error(response, 401, "unauthenticated")


async def test_the_scheme_is_known_in_any_case(client: httpx.AsyncClient, alice: Account) -> None:
    for scheme in ("bearer", "BEARER", "Bearer   "):
        response = await client.get(
            "/api/v1/users/me", headers={"Authorization": f"{scheme} {alice.token}"}
        )
        assert response.status_code == 200


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_ended_credential_is_refused_at_once_though_the_worker_remembers_it(
    alice: Account, database: Database, ending: str
) -> None:
    await alice.create_task()
    await end_credential(database, alice, ending)

    response = await alice.client.post("/api/v1/tasks", json={"title": "After the end"})
    assert_error(response, 401, "unauthenticated")
    async with database.session() as session:
        titles = await session.scalars(
            text("SELECT title FROM tasks WHERE owner_id = :id"), {"id": alice.id}
        )
        assert titles.all() == ["Water"]
    # The second time it is no longer remembered.
    assert_error(await alice.client.get("/api/v1/tasks"), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/tasks", b"{not json"),
        ("POST", "/api/v1/tasks", b'{"titel": "x"}'),
        ("PATCH", "/api/v1/tasks/abc", b"{}"),
        ("GET", "/api/v1/tasks?page=0", b""),
        ("GET", "/api/v1/tasks?unknown=1", b""),
        ("GET", "/api/v1/tasks/999999999999", b""),
    ],
)
async def test_after_its_end_a_credential_learns_nothing_about_the_rest_of_the_request(
    alice: Account, database: Database, method: str, path: str, body: bytes
) -> None:
    assert (await alice.client.get("/api/v1/users/me")).status_code == 200
    await end_credential(database, alice, "revoked")

    response = await alice.client.request(
        method, path, content=body, headers={"Content-Type": "application/json"}
    )
    assert_error(response, 401, "unauthenticated")


async def test_a_credential_that_ends_while_the_body_comes_learns_nothing_about_it(
    app: FastAPI, alice: Account, database: Database
) -> None:
    actors: ActorCache = app.state.actors
    digest = token_digest(alice.token, SECRET_KEY)
    assert actors.get(digest) is None

    async def body() -> AsyncIterator[bytes]:
        yield b'{"title":'
        await until(lambda: actors.get(digest) is not None)
        await end_credential(database, alice, "revoked")
        yield b'""}'

    headers = {"Content-Type": "application/json"}
    response = await alice.client.post("/api/v1/tasks", content=body(), headers=headers)
    assert_error(response, 401, "unauthenticated")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("password", {"current_password": PASSWORD, "new_password": "a new password"}),
        ("close", {"password": PASSWORD}),
    ],
)
async def test_a_credential_that_ends_while_the_password_is_checked_changes_nothing(
    new_account: NewAccount,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, str],
) -> None:
    account = await new_account(password_hash=CHEAP_HASH)
    verify = PasswordHasher.verify
    loop = asyncio.get_running_loop()

    async def verify_while_it_ends(*arguments: Any) -> Any:
        # The service has a loop of its own.
        ending = end_credential(database, account, "revoked")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ending, loop))
        return await verify(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PasswordHasher, "verify", verify_while_it_ends)
        response = await account.client.post(f"/api/v1/users/me/{path}", json=body)

    assert_error(response, 401, "unauthenticated")
    assert await account.log_in()


async def test_a_revocation_holds_on_every_process_with_the_next_request(
    settings: Settings, alice: Account, database: Database
) -> None:
    with served(create_app(settings)) as other_url:
        headers = {"Authorization": f"Bearer {alice.token}"}
        async with http_client(other_url, headers) as other:
            for client in (alice.client, other):
                assert (await client.get("/api/v1/tasks")).status_code == 200
            await end_credential(database, alice, "revoked")
            responses = await asyncio.gather(
                alice.client.post("/api/v1/tasks", json={"title": "x"}),
                other.post("/api/v1/tasks", json={"title": "x"}),
                other.get("/api/v1/tasks"),
            )

    for response in responses:
        assert_error(response, 401, "unauthenticated")


async def test_a_warm_worker_spends_no_statement_on_authentication(
    settings: Settings, alice: Account
) -> None:
    app = create_app(settings)
    statements = statements_of(app)

    async def run_by(method: str, path: str, **options: Any) -> list[str]:
        statements.clear()
        response = await client.request(method, path, **options)
        assert response.is_success
        return list(statements)

    with served(app) as url:
        async with http_client(url, {"Authorization": f"Bearer {alice.token}"}) as client:
            body = {"title": "x"}
            first = await run_by("POST", "/api/v1/tasks", json=body)
            # The worker meets the credential for the first time: it looks it up and notes its use.
            assert first == ["SELECT", "UPDATE", "INSERT"]
            assert await run_by("POST", "/api/v1/tasks", json=body) == ["INSERT"]
            task = (await client.get("/api/v1/tasks")).json()["data"]["tasks"][0]
            path = f"/api/v1/tasks/{task['id']}"
            assert await run_by("GET", path) == ["SELECT"]
            assert await run_by("PATCH", path, json=body) == ["UPDATE"]
            assert await run_by("GET", "/api/v1/tasks") == ["SELECT"]
            assert await run_by("GET", "/api/v1/tasks/stats") == ["SELECT"]
            assert await run_by("PUT", "/api/v1/tasks/external/e", json=body) == ["INSERT"]
            assert await run_by("DELETE", path) == ["UPDATE"]
            assert await run_by("GET", "/api/v1/tasks/trash") == ["SELECT"]
            assert await run_by("POST", f"{path}/restore") == ["UPDATE"]
            assert await run_by("DELETE", f"{path}?permanent=true") == ["DELETE"]


def test_a_worker_remembers_only_so_many_actors() -> None:
    cache = ActorCache(capacity=2)
    for number in range(3):
        cache.put(bytes([number]), Actor(number, number, frozenset()))

    assert cache.get(b"\x00") is None
    assert cache.get(b"\x02") == Actor(2, 2, frozenset())


def test_a_token_with_one_character_changed_is_known_as_malformed() -> None:
    token = new_token("tfu_")
    for position in range(len(token)):
        other = "x" if token[position] != "x" else "y"
        mistyped = token[:position] + other + token[position + 1 :]
        assert not is_well_formed_token(mistyped, prefixes=("tfu_",))
    assert is_well_formed_token(token, prefixes=("tfu_",))
