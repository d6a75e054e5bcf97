"""POST /api/v1/auth/token."""

import asyncio
import re
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from argon2 import PasswordHasher as Argon2
from sqlalchemy import select, text

from app.accounts.models import Credential, User, login_key
from app.db.session import Database
from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, PASSWORD, Account, assert_error


@pytest.fixture
async def user(new_account: NewAccount) -> Account:
    return await new_account(password_hash=CHEAP_HASH)


def grant(user: Account, **fields: str) -> dict[str, str]:
    form = {"grant_type": "password", "username": user.username, "password": PASSWORD}
    return form | fields


async def test_a_login_gives_a_bearer_token_that_works(
    client: httpx.AsyncClient, user: Account
) -> None:
    response = await client.post("/api/v1/auth/token", data=grant(user))

    assert response.status_code == 200
    body = response.json()
    token = body.pop("access_token")
    assert body == {
        "token_type": "bearer",
        "expires_in": 86_400,
        "scope": "account:read account:write tasks:read tasks:write",
    }
    assert re.fullmatch(r"tfu_[0-9A-Za-z]{38}", token)
    assert response.headers["Cache-Control"] == "no-store"
    me = await client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})
    assert me.json()["data"]["id"] == user.id


async def test_the_name_may_be_an_email_address_and_in_any_case(
    client: httpx.AsyncClient, user: Account
) -> None:
    for name in (
        user.username.upper(),
        f"{user.username}@example.com",
        f"{user.username.upper()}@EXAMPLE.COM",
    ):
        response = await client.post("/api/v1/auth/token", data=grant(user, username=name))
        assert response.status_code == 200, name


async def test_a_login_has_just_the_scopes_that_it_asks_for(
    client: httpx.AsyncClient, user: Account
) -> None:
    form = grant(user, scope="tasks:read account:read tasks:read")
    body = (await client.post("/api/v1/auth/token", data=form)).json()

    assert body["scope"] == "account:read tasks:read"
    headers = {"Authorization": f"Bearer {body['access_token']}"}
    assert (await client.get("/api/v1/tasks", headers=headers)).status_code == 200
    refused = await client.post("/api/v1/tasks", json={"title": "x"}, headers=headers)
    assert_error(refused, 403, "insufficient_scope")


async def test_unknown_name_wrong_password_and_inactive_user_get_one_answer(
    client: httpx.AsyncClient, user: Account, new_account: NewAccount, database: Database
) -> None:
    inactive: Account = await new_account(password_hash=CHEAP_HASH)
    async with database.session() as session:
        await session.execute(
            text("UPDATE users SET is_active = false WHERE id = :id"), {"id": inactive.id}
        )

    answers = [
        await client.post("/api/v1/auth/token", data=form)
        for form in (
            grant(user, username=f"nobody-{uuid4().hex[:8]}"),
            grant(user, username="nobody@example.com"),
            grant(user, username="a\x00b"),
            grant(user, username="x" * 5000),
            grant(user, password="wrong"),
            grant(user, password=PASSWORD + " "),
            grant(user, password="x" * 5000),
            grant(inactive),
        )
    ]
    for answer in answers:
        assert answer.status_code == 400
        assert answer.json() == {
            "error": "invalid_grant",
            "error_description": "Wrong username or password",
        }


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        (
            # What belongs to another grant is not missing here.
            {"grant_type": "refresh_token", "username": "", "password": ""},
            "unsupported_grant_type",
        ),
        ({"grant_type": "PASSWORD"}, "unsupported_grant_type"),
        ({"scope": "tasks:read everything"}, "invalid_scope"),
        ({"scope": "admin"}, "invalid_scope"),
    ],
)
async def test_a_grant_that_is_refused_says_why_as_rfc_6749_does(
    client: httpx.AsyncClient, user: Account, fields: dict[str, str], error: str
) -> None:
    response = await client.post("/api/v1/auth/token", data=grant(user, **fields))

    assert response.status_code == 400
    body = response.json()
    assert body.keys() == {"error", "error_description"}
    assert body["error"] == error


@pytest.mark.parametrize("form_of", ["absent", "empty"])
@pytest.mark.parametrize("missing", ["grant_type", "username", "password"])
async def test_a_missing_parameter_is_an_invalid_request(
    client: httpx.AsyncClient, user: Account, missing: str, form_of: str
) -> None:
    form = grant(user, **{missing: ""})
    if form_of == "absent":
        del form[missing]
    response = await client.post("/api/v1/auth/token", data=form)

    assert response.status_code == 400
    assert response.json()["error"] == "invalid_request"
    assert missing in response.json()["error_description"]


async def test_a_repeated_parameter_is_an_invalid_request(
    client: httpx.AsyncClient, user: Account
) -> None:
    form: dict[str, Any] = grant(user) | {"password": [PASSWORD, "other"]}
    response = await client.post("/api/v1/auth/token", data=form)

    assert response.status_code == 400
    assert response.json()["error"] == "invalid_request"


async def test_a_form_may_hold_letters_as_they_are_or_percent_encoded(
    client: httpx.AsyncClient, new_account: NewAccount
) -> None:
    password = "pässwörd✓"
    hashed = Argon2(time_cost=1, memory_cost=8, parallelism=1).hash(password)
    account: Account = await new_account(password_hash=hashed)
    form = f"grant_type=password&username={account.username}&password="
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for encoded in (password, quote(password)):
        response = await client.post(
            "/api/v1/auth/token", content=(form + encoded).encode(), headers=headers
        )
        assert response.status_code == 200


@pytest.mark.parametrize(
    "form",
    [b"password=%FF", b"password=\xff", b"&".join(b"a%d=1" % number for number in range(200))],
)
async def test_a_form_that_cannot_be_read_is_an_invalid_request(
    client: httpx.AsyncClient, form: bytes
) -> None:
    response = await client.post(
        "/api/v1/auth/token",
        content=b"grant_type=password&username=ada&" + form,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert response.status_code == 400
    assert response.json()["error"] == "invalid_request"


@pytest.mark.usefixtures("costly_passwords")
async def test_logins_that_meet_while_a_weak_hash_is_replaced_all_succeed(
    client: httpx.AsyncClient, new_account: NewAccount
) -> None:
    account: Account = await new_account(password_hash=CHEAP_HASH)
    responses = await asyncio.gather(
        *(client.post("/api/v1/auth/token", data=grant(account)) for _ in range(6))
    )

    assert [response.status_code for response in responses] == [200] * 6


async def test_unknown_parameters_are_ignored_as_the_standard_says(
    client: httpx.AsyncClient, user: Account
) -> None:
    form = grant(user, client_id="swagger", client_secret="", device="phone")
    response = await client.post("/api/v1/auth/token?trace=1", data=form)

    assert response.status_code == 200


async def test_a_body_that_is_no_form_keeps_the_envelope(
    client: httpx.AsyncClient, user: Account
) -> None:
    response = await client.post("/api/v1/auth/token", json=grant(user))

    assert_error(response, 415, "unsupported_media_type", fields={"header.content-type": "invalid"})


async def test_a_form_that_is_too_large_keeps_the_envelope(
    client: httpx.AsyncClient, user: Account
) -> None:
    response = await client.post("/api/v1/auth/token", data=grant(user, password="x" * 70_000))

    assert_error(response, 413, "payload_too_large")


async def test_a_token_is_stored_only_as_a_digest(
    client: httpx.AsyncClient, user: Account, database: Database
) -> None:
    token = (await client.post("/api/v1/auth/token", data=grant(user))).json()["access_token"]

    async with database.session() as session:
        rows = await session.scalars(select(Credential).where(Credential.user_id == user.id))
        stored = str([vars(row) for row in rows])
    assert token not in stored
    assert token[4:-6] not in stored


@pytest.mark.usefixtures("costly_passwords")
async def test_a_weak_hash_is_replaced_at_login_and_the_password_stays(
    client: httpx.AsyncClient, user: Account, database: Database
) -> None:
    assert (await client.post("/api/v1/auth/token", data=grant(user))).status_code == 200

    async with database.session() as session:
        stored = await session.scalar(select(User.password_hash).where(User.id == user.id))
    assert stored is not None
    assert stored.startswith("$argon2id$v=19$m=32768,t=2,p=1$")
    assert (await client.post("/api/v1/auth/token", data=grant(user))).status_code == 200


async def test_a_login_clears_away_the_users_expired_ones_and_no_key(
    client: httpx.AsyncClient, user: Account, database: Database
) -> None:
    key = await user.create_api_key()
    async with database.session() as session:
        await session.execute(
            text("UPDATE credentials SET expires_at = now() - interval '1 s' WHERE user_id = :id"),
            {"id": user.id},
        )
    await client.post("/api/v1/auth/token", data=grant(user))

    async with database.session() as session:
        rows = await session.scalars(select(Credential.id).where(Credential.user_id == user.id))
        left = rows.all()
    assert user.credential_id not in left
    assert key["id"] in left


@pytest.mark.parametrize("spelling", ["adm\u0130nistrator", "\u212afriend", "\u017fam"])
async def test_a_name_with_letters_outside_ascii_is_nobodys(
    client: httpx.AsyncClient, spelling: str
) -> None:
    """PostgreSQL and Python fold such letters differently, and each would have its own guesses."""
    assert login_key(spelling) is None
    form = {"grant_type": "password", "username": spelling, "password": PASSWORD}
    assert (await client.post("/api/v1/auth/token", data=form)).json()["error"] == "invalid_grant"


def test_a_name_longer_than_any_address_is_never_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalising 30,000 marks takes three seconds, and nobody else is served meanwhile."""

    def fold(_: str) -> str:
        raise AssertionError

    monkeypatch.setattr("app.accounts.models.email_key", fold)
    assert login_key("@a" + "\u0300" * 15_000 + "\u0316" * 15_000) is None
    assert login_key("x" * 255) is None
