"""A refused login costs one Argon2 check, whatever is wrong; `make endurance` measures the time."""

import pytest
from sqlalchemy import text

from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, PASSWORD, http_client, served


@pytest.mark.parametrize("wrong", ["password", "inactive", "name", "address", "long name", "NUL"])
async def test_every_refused_login_pays_for_one_check_of_a_real_hash(
    settings: Settings,
    new_account: NewAccount,
    database: Database,
    wrong: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = await new_account(password_hash=CHEAP_HASH)
    names = {
        "name": "nobody-of-this-name",
        "address": "nobody@example.com",
        "long name": "x" * 300,
        "NUL": "a\x00b",
    }
    if wrong == "inactive":
        async with database.session() as session:
            statement = text("UPDATE users SET is_active = false WHERE id = :id")
            await session.execute(statement, {"id": account.id})
    app = create_app(settings)
    checked: list[str] = []

    def check(password: str, password_hash: str) -> tuple[bool, None]:
        checked.append(password_hash.split("$")[1])
        return password == PASSWORD and password_hash == CHEAP_HASH, None

    monkeypatch.setattr(app.state.password_hasher._argon2, "verify_and_update", check)  # noqa: SLF001 - what is under it
    with served(app) as url:
        async with http_client(url) as client:
            form = {
                "grant_type": "password",
                "username": names.get(wrong, account.username),
                "password": "wrong" if wrong == "password" else PASSWORD,
            }
            response = await client.post("/api/v1/auth/token", data=form)
    assert response.json() == {
        "error": "invalid_grant",
        "error_description": "Wrong username or password",
    }
    assert checked == ["argon2id"]
