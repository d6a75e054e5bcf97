"""GET /api/v1/users/me."""

import pytest

from tests.conftest import NewAccount
from tests.support import Account, assert_error


async def test_the_account_behind_the_credential_is_read(alice: Account) -> None:
    response = await alice.client.get("/api/v1/users/me")

    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["message"]) == ("success", "ok")
    assert body["data"] == {
        "id": alice.id,
        "username": alice.username,
        "email": f"{alice.username}@example.com",
        "is_active": True,
        "created_at": body["data"]["created_at"],
    }


@pytest.mark.parametrize("scopes", [[], ["tasks:read", "tasks:write"], ["account:write"]])
async def test_a_credential_without_the_scope_is_refused(
    new_account: NewAccount, scopes: list[str]
) -> None:
    account = await new_account(scopes=scopes)
    response = await account.client.get("/api/v1/users/me")

    assert_error(response, 403, "insufficient_scope")


async def test_an_unknown_parameter_is_refused_by_name(alice: Account) -> None:
    response = await alice.client.get("/api/v1/users/me?expand=tasks")

    assert_error(response, 400, "validation_failed", fields={"query.expand": "unknown"})
