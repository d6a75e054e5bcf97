"""POST /api/v1/users."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.core.settings import Settings
from app.main import create_app
from tests.conftest import NewDatabase
from tests.support import assert_error, http_client, served, service_settings


def registration(**fields: Any) -> dict[str, Any]:
    name = f"user-{uuid4().hex[:12]}"
    return {"username": name, "email": f"{name}@example.com", "password": "secret"} | fields


async def test_a_registration_answers_with_the_account_and_never_a_password(
    client: httpx.AsyncClient,
) -> None:
    data = registration(email=f"Mixed.Case-{uuid4().hex[:8]}@Example.COM")
    response = await client.post("/api/v1/users", json=data)

    assert response.status_code == 201
    body = response.json()
    assert (body["status"], body["message"]) == ("success", "User created")
    user = body["data"]
    assert user == {
        "id": user["id"],
        "username": data["username"],
        "email": data["email"],
        "is_active": True,
        "created_at": user["created_at"],
    }
    assert data["password"] not in response.text
    assert "argon2" not in response.text


@pytest.mark.parametrize("field", ["username", "email", "password"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, field: str) -> None:
    data = registration()
    del data[field]
    response = await client.post("/api/v1/users", json=data)

    assert_error(response, 400, "validation_failed", fields={f"body.{field}": "missing"})


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"username": "ab"}, {"body.username": "too_short"}),
        ({"username": "a" * 81}, {"body.username": "too_long"}),
        ({"username": "white space"}, {"body.username": "invalid"}),
        ({"username": " padded "}, {"body.username": "invalid"}),
        ({"username": "ünïcödé"}, {"body.username": "invalid"}),
        ({"username": "a@example.com"}, {"body.username": "invalid"}),
        ({"username": "abc\n"}, {"body.username": "invalid"}),
        ({"username": "a\x00bc"}, {"body.username": "invalid"}),
        ({"username": 12345}, {"body.username": "wrong_type"}),
        ({"username": None}, {"body.username": "wrong_type"}),
        ({"email": "nobody"}, {"body.email": "invalid"}),
        ({"email": "a@b@example.com"}, {"body.email": "invalid"}),
        ({"email": "a b@example.com"}, {"body.email": "invalid"}),
        ({"email": "a\x00@example.com"}, {"body.email": "invalid"}),
        ({"email": " a@example.com"}, {"body.email": "invalid"}),
        ({"email": "@example.com"}, {"body.email": "invalid"}),
        ({"email": "a@"}, {"body.email": "invalid"}),
        ({"email": ""}, {"body.email": "invalid"}),
        ({"email": "a" * 250 + "@example.com"}, {"body.email": "too_long"}),
        ({"email": ["a@example.com"]}, {"body.email": "wrong_type"}),
        ({"password": ""}, {"body.password": "too_short"}),
        ({"password": "12345"}, {"body.password": "too_short"}),
        ({"password": "x" * 129}, {"body.password": "too_long"}),
        ({"password": 123456}, {"body.password": "wrong_type"}),
        ({"is_active": False}, {"body.is_active": "unknown"}),
        ({"is_admin": True}, {"body.is_admin": "unknown"}),
    ],
)
async def test_a_field_that_breaks_the_schema_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], blamed: dict[str, str]
) -> None:
    response = await client.post("/api/v1/users", json=registration(**fields))

    assert_error(response, 400, "validation_failed", fields=blamed)


@pytest.mark.parametrize(
    "domain", ["intranet.local", "foo.test", "münchen.de", "xn--mnchen-3ya.de"]
)
async def test_addresses_of_intranets_tests_and_other_scripts_are_addresses(
    client: httpx.AsyncClient, domain: str
) -> None:
    data = registration(email=f"a-{uuid4().hex[:8]}@{domain}")
    response = await client.post("/api/v1/users", json=data)

    assert response.status_code == 201
    assert response.json()["data"]["email"] == data["email"]


@pytest.mark.parametrize("password", ["  six  ", "пароль", "🔑🔑🔑🔑🔑🔑", "a\x00bcde", "x" * 128])
async def test_a_password_may_hold_anything_and_is_never_trimmed_or_cut(
    client: httpx.AsyncClient, password: str
) -> None:
    data = registration(password=password)
    assert (await client.post("/api/v1/users", json=data)).status_code == 201

    async def status_with(attempt: str) -> int:
        form = {"grant_type": "password", "username": data["username"], "password": attempt}
        return (await client.post("/api/v1/auth/token", data=form)).status_code

    assert await status_with(password) == 200
    assert await status_with(password.strip()[:-1]) == 400


async def test_a_taken_username_is_refused_whatever_its_case(client: httpx.AsyncClient) -> None:
    first = registration()
    assert (await client.post("/api/v1/users", json=first)).status_code == 201

    for name in (first["username"], first["username"].upper()):
        response = await client.post("/api/v1/users", json=registration(username=name))
        assert_error(response, 409, "username_taken", fields={"body.username": "duplicate"})
        assert response.json()["message"] == "Username already exists"


async def test_if_both_are_taken_the_username_is_named(client: httpx.AsyncClient) -> None:
    data = registration()
    assert (await client.post("/api/v1/users", json=data)).status_code == 201

    assert_error(
        await client.post("/api/v1/users", json=data),
        409,
        "username_taken",
        fields={"body.username": "duplicate"},
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{}@example.com", "{}@example.com"),
        ("{}@example.com", "{}@EXAMPLE.com"),
        ("x{}@example.com", "X{}@example.com"),
        ("é{}@example.com", "É{}@example.com"),
        ("e\u0301{}@example.com", "é{}@example.com"),
        ("straße{}@example.com", "STRASSE{}@example.com"),
        ("{}ﬁn@example.com", "{}fin@example.com"),
    ],
)
async def test_a_taken_email_is_refused_whatever_its_case_and_form(
    client: httpx.AsyncClient, first: str, second: str
) -> None:
    unique = uuid4().hex[:10]
    created = await client.post("/api/v1/users", json=registration(email=first.format(unique)))
    assert created.status_code == 201, created.text
    assert created.json()["data"]["email"] == first.format(unique)

    response = await client.post("/api/v1/users", json=registration(email=second.format(unique)))
    assert_error(response, 409, "email_taken", fields={"body.email": "duplicate"})
    assert response.json()["message"] == "Email already registered"


async def test_of_twenty_registrations_of_a_name_at_once_one_is_made(
    client: httpx.AsyncClient,
) -> None:
    name = f"race-{uuid4().hex[:10]}"
    responses = await asyncio.gather(
        *(
            client.post("/api/v1/users", json=registration(username=name.swapcase()))
            for _ in range(20)
        )
    )

    assert sorted(response.status_code for response in responses) == [201] + [409] * 19
    refused = [response for response in responses if response.status_code == 409]
    for response in refused:
        assert_error(response, 409, "username_taken", fields={"body.username": "duplicate"})


async def test_of_twenty_registrations_of_an_address_at_once_one_is_made(
    client: httpx.AsyncClient,
) -> None:
    email = f"race-{uuid4().hex[:10]}@example.com"
    responses = await asyncio.gather(
        *(client.post("/api/v1/users", json=registration(email=email)) for _ in range(20))
    )

    assert sorted(response.status_code for response in responses) == [201] + [409] * 19
    for response in responses:
        if response.status_code == 409:
            assert_error(response, 409, "email_taken", fields={"body.email": "duplicate"})


async def test_registration_can_be_closed(new_database: NewDatabase) -> None:
    settings = service_settings(new_database(), registration_enabled=False)
    with served(create_app(settings)) as base_url:
        async with http_client(base_url) as client:
            response = await client.post("/api/v1/users", json=registration())

    assert_error(response, 403, "registration_disabled")


async def test_the_operator_sets_how_short_a_password_may_be(new_database: NewDatabase) -> None:
    settings = service_settings(new_database(), password_min_length=15)
    with served(create_app(settings)) as base_url:
        async with http_client(base_url) as client:
            short = await client.post("/api/v1/users", json=registration(password="x" * 14))
            long = await client.post("/api/v1/users", json=registration(password="x" * 15))

    assert_error(short, 400, "validation_failed", fields={"body.password": "too_short"})
    assert "15 characters" in short.json()["errors"][0]["message"]
    assert long.status_code == 201


@pytest.mark.parametrize("password", ["password123", "PASSWORD123", "1qaz2wsx3edc"])
async def test_in_production_the_commonest_passwords_are_refused(
    settings: Settings, password: str
) -> None:
    production = service_settings(
        settings.required_database_url, environment="production", password_min_length=8
    )
    with served(create_app(production)) as url:
        async with http_client(url) as client:
            body = registration(password=password)
            response = await client.post("/api/v1/users", json=body)
            assert_error(response, 400, "validation_failed", fields={"body.password": "invalid"})
            accepted = await client.post(
                "/api/v1/users", json=registration(password=password + "é")
            )
            assert accepted.status_code == 201
