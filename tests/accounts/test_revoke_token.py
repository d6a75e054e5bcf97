"""POST /api/v1/auth/revoke."""

import httpx
import pytest

from app.core.security import new_token
from tests.support import Account, assert_error


async def test_whoever_knows_a_token_ends_it_at_once(
    client: httpx.AsyncClient, alice: Account
) -> None:
    assert (await alice.client.get("/api/v1/tasks")).status_code == 200
    for _ in range(2):
        response = await client.post("/api/v1/auth/revoke", data={"token": alice.token})
        assert response.status_code == 200
        assert response.content == b""

    assert_error(await alice.client.get("/api/v1/tasks"), 401, "unauthenticated")


@pytest.mark.parametrize("token", ["x", "tfu_", "tfu_" + "\x00" * 38, "é" * 100])
async def test_a_token_that_never_was_gets_the_same_answer(
    client: httpx.AsyncClient, token: str
) -> None:
    unknown = await client.post("/api/v1/auth/revoke", data={"token": new_token("tfu_")})
    response = await client.post(
        "/api/v1/auth/revoke", data={"token": token, "token_type_hint": "access_token"}
    )

    assert (response.status_code, response.content) == (200, b"")
    assert (unknown.status_code, unknown.content) == (200, b"")


async def test_a_form_without_a_token_is_an_invalid_request(client: httpx.AsyncClient) -> None:
    for form in ({}, {"token": ""}, {"tokens": "x"}, {"token": ["a", "b"]}):
        response = await client.post(
            "/api/v1/auth/revoke",
            data=form,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert response.status_code == 400
        assert response.json()["error"] == "invalid_request"


async def test_a_body_that_is_no_form_keeps_the_envelope(
    client: httpx.AsyncClient, alice: Account
) -> None:
    response = await client.post("/api/v1/auth/revoke", json={"token": alice.token})

    assert_error(response, 415, "unsupported_media_type", fields={"header.content-type": "invalid"})
    assert (await alice.client.get("/api/v1/users/me")).status_code == 200
