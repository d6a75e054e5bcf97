"""A new SECRET_KEY: what was issued under the previous one is accepted while clients move."""

from sqlalchemy import text

from app.core.security import token_digest
from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from tests.support import SECRET_KEY, Account, http_client, served, service_settings

NEW_KEY = "another key that only tests use, as long as the first"


def rotated(settings: Settings, fallback: str) -> Settings:
    return service_settings(
        settings.required_database_url, secret_key=NEW_KEY, secret_key_fallback=fallback
    )


async def status_with(url: str, token: str) -> int:
    async with http_client(url, {"Authorization": f"Bearer {token}"}) as client:
        return (await client.get("/api/v1/users/me")).status_code


async def test_credentials_of_the_previous_secret_stay_valid_and_move_to_the_new_one(
    settings: Settings, alice: Account, database: Database
) -> None:
    key = (await alice.create_api_key())["key"]
    with served(create_app(rotated(settings, SECRET_KEY))) as url:
        assert await status_with(url, key) == 200
        assert await status_with(url, alice.token) == 200
    async with database.session() as session:
        statement = text("SELECT digest FROM credentials WHERE user_id = :id")
        digests = set(await session.scalars(statement, {"id": alice.id}))
    assert digests == {token_digest(token, NEW_KEY) for token in (key, alice.token)}
    # The previous secret can go: what was used meanwhile is under the new one.
    with served(create_app(rotated(settings, ""))) as url:
        assert await status_with(url, key) == 200


async def test_without_the_previous_secret_its_credentials_end(
    settings: Settings, alice: Account
) -> None:
    with served(create_app(rotated(settings, ""))) as url:
        assert await status_with(url, alice.token) == 401


async def test_a_credential_of_the_previous_secret_can_be_revoked(
    settings: Settings, alice: Account
) -> None:
    with served(create_app(rotated(settings, SECRET_KEY))) as url:
        async with http_client(url) as client:
            revoked = await client.post("/api/v1/auth/revoke", data={"token": alice.token})
            assert revoked.status_code == 200
        assert await status_with(url, alice.token) == 401
    assert (await alice.client.get("/api/v1/users/me")).status_code == 401


async def test_secrets_are_shown_in_no_repr(settings: Settings) -> None:
    shown = repr(rotated(settings, SECRET_KEY))
    assert SECRET_KEY not in shown
    assert NEW_KEY not in shown
