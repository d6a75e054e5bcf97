"""The audit trail: who did what to accounts and credentials, from where."""

import json
import subprocess
import sys
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, PASSWORD, Account

FACTS = {"event", "log_level", "request_id", "address", "user_id"}


@pytest.fixture
def trail(log_lines: list[dict[str, Any]]) -> Any:
    """The audit events since the last call, each with all that the trail promises."""

    def events() -> list[tuple[str, int | None]]:
        found = [line for line in log_lines if "route" not in line]
        log_lines.clear()
        for line in found:
            assert line.keys() - {"credential_id"} == FACTS, line
            assert line["address"] == "127.0.0.1"
            assert line["log_level"] == "info"
        return [(line["event"], line["user_id"]) for line in found]

    return events


async def test_logins_and_failures_leave_their_lines(
    new_account: NewAccount, client: httpx.AsyncClient, trail: Any
) -> None:
    account = await new_account(password_hash=CHEAP_HASH)
    token = await account.log_in()
    assert trail() == [("login", account.id)]
    await account.log_in("wrong")
    assert trail() == [("login_failed", account.id)]
    form = {"grant_type": "password", "username": f"nobody-{uuid4()}", "password": "x"}
    await client.post("/api/v1/auth/token", data=form)
    assert trail() == [("login_failed", None)]
    await client.post("/api/v1/auth/revoke", data={"token": token})
    assert trail() == [("credential_revoked", account.id)]
    await client.post("/api/v1/auth/revoke", data={"token": token})
    assert trail() == []


async def test_keys_leave_their_lines(alice: Account, trail: Any) -> None:
    key = await alice.create_api_key()
    assert trail() == [("api_key_created", alice.id)]
    await alice.client.delete(f"/api/v1/api-keys/{key['id']}")
    assert trail() == [("api_key_deleted", alice.id)]


async def test_the_life_of_an_account_leaves_its_lines(
    client: httpx.AsyncClient, new_account: NewAccount, trail: Any
) -> None:
    name = f"audited-{uuid4().hex[:8]}"
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    user_id = (await client.post("/api/v1/users", json=body)).json()["data"]["id"]
    assert trail() == [("account_registered", user_id)]

    account = await new_account(password_hash=CHEAP_HASH)
    me = "/api/v1/users/me"
    await account.client.patch(me, json={"email": f"{uuid4().hex}@example.com"})
    assert trail() == [("account_changed", account.id)]
    change = {"current_password": "wrong", "new_password": "another horse"}
    await account.client.post(f"{me}/password", json=change)
    assert trail() == [("password_refused", account.id)]
    await account.client.post(f"{me}/password", json=change | {"current_password": PASSWORD})
    assert trail() == [("password_changed", account.id)]
    await account.client.post(f"{me}/close", json={"password": "another horse"})
    assert trail() == [("account_closed", account.id)]


async def test_refused_requests_leave_no_line_of_success(
    alice: Account, new_account: NewAccount, trail: Any
) -> None:
    await alice.client.patch("/api/v1/users/me", json={"email": "not an address"})
    taken = await new_account()
    refused = await alice.client.patch("/api/v1/users/me", json={"username": taken.username})
    assert refused.status_code == 409
    await alice.client.delete("/api/v1/api-keys/1")
    await alice.client.post("/api/v1/api-keys", json={})
    assert trail() == []


def test_the_trail_is_there_at_every_level_of_the_log() -> None:
    code = (
        "from app.core.logging import configure_logging\n"
        "from app.accounts.audit import audit\n"
        "configure_logging(level='ERROR', form='json')\n"
        "audit('login', user_id=7)\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(printed.stdout)["event"] == "login"
