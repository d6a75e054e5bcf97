"""What tests have in common: accounts that cost no Argon2, and a service on a real port."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import func, insert

from app.accounts.credentials import LOGIN_PREFIX, SCOPES
from app.accounts.models import Credential, CredentialKind, User
from app.accounts.service import email_key
from app.core.security import new_token, token_digest
from app.core.settings import Settings
from app.db.session import Database

SECRET_KEY = "a key that only tests use, long enough for anything"
READY_WITHIN_SECONDS = 20
# Made once: each client would load all certificates again, for connections without TLS.
SSL_CONTEXT = ssl.create_default_context()


@dataclass(frozen=True)
class Account:
    """A user of a test, with a client that is logged in."""

    id: int
    username: str
    credential_id: int
    token: str = field(repr=False)
    client: httpx.AsyncClient

    async def create_task(self, **fields: Any) -> dict[str, Any]:
        response = await self.client.post("/api/v1/tasks", json={"title": "Water"} | fields)
        assert response.status_code == 201, response.text
        task: dict[str, Any] = response.json()["data"]
        return task


def http_client(base_url: str, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30, verify=SSL_CONTEXT)


async def make_account(
    database: Database,
    base_url: str,
    *,
    scopes: list[str] | None = None,
    password_hash: str = "unusable",
) -> Account:
    """An account and a login in the database, without the cost of a password."""
    name = f"user-{uuid4().hex[:16]}"
    token = new_token(LOGIN_PREFIX)
    async with database.transaction() as session:
        user_id = await session.scalar(
            insert(User)
            .values(
                username=name,
                email=f"{name}@example.com",
                email_key=email_key(f"{name}@example.com"),
                password_hash=password_hash,
            )
            .returning(User.id)
        )
        credential_id = await session.scalar(
            insert(Credential)
            .values(
                user_id=user_id,
                kind=CredentialKind.LOGIN,
                digest=token_digest(token, secret_key=SECRET_KEY),
                scopes=list(SCOPES) if scopes is None else scopes,
                expires_at=func.now() + timedelta(hours=1),
            )
            .returning(Credential.id)
        )
    assert user_id is not None
    assert credential_id is not None
    client = http_client(base_url, headers={"Authorization": f"Bearer {token}"})
    return Account(user_id, name, credential_id, token, client)


def testing_settings(database_url: str, **overrides: Any) -> Settings:
    """The settings of a service under test, whatever the environment says."""
    return Settings.model_validate(
        {
            "environment": "testing",
            "database_url": database_url,
            "secret_key": SECRET_KEY,
            **overrides,
        }
    )


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve `app` by uvicorn on a port of its own, in a thread; yields the base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, ws="none"
        )
        ready = threading.Event()

        class Announcing(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready.set()

        server = Announcing(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(READY_WITHIN_SECONDS), "the service did not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(READY_WITHIN_SECONDS)


def assert_error(
    response: httpx.Response, status: int, code: str, *, fields: dict[str, str] | None = None
) -> None:
    """The answer is this error of the contract, and blames just these fields, by field and code."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["status"] == "error"
    assert body["code"] == code
    assert body["message"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    blamed = {error["field"]: error["code"] for error in body.get("errors", [])}
    assert blamed == (fields or {})


def plain_url(database_url: str) -> str:
    """The address in the form that asyncpg takes."""
    return database_url.replace("postgresql+asyncpg://", "postgresql://")


def run_sql(database_url: str, *statements: str) -> None:
    """Run statements one by one, from a test without an event loop."""

    async def run() -> None:
        connection = await asyncpg.connect(plain_url(database_url))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())
