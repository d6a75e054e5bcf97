"""What tests have in common: accounts that cost no Argon2, and a service on a real port."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import uvicorn
from argon2 import PasswordHasher as Argon2
from fastapi import FastAPI
from sqlalchemy import event, func, insert, text

from app.accounts.credentials import KEY_PREFIX, LOGIN_PREFIX, SCOPES
from app.accounts.models import Credential, CredentialKind, User, email_key
from app.core.security import new_token, token_digest
from app.core.settings import Settings
from app.db.session import Database, Rows, Transaction
from app.db.statements import Statement
from app.server.run import SERVER_OPTIONS

SECRET_KEY = "a key that only tests use, long enough for anything"
READY_WITHIN_SECONDS = 60
TASKFLOW = Path(sys.executable).with_name("taskflow")
# Nothing that the developer has set, but where coverage is measured in subprocesses.
CLEAN_ENVIRONMENT = {
    name: os.environ[name] for name in os.environ if name in {"PATH", "HOME"} or "COV" in name
}
# Made once: each client would load all certificates again, for connections without TLS.
SSL_CONTEXT = ssl.create_default_context()


PASSWORD = "correct horse"
# The least that Argon2 allows: most tests are about accounts, not about its cost.
CHEAP_HASH = Argon2(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


@dataclass(frozen=True)
class Account:
    """A user of a test, with a client that is logged in."""

    id: int
    username: str
    credential_id: int
    token: str = field(repr=False)
    client: httpx.AsyncClient

    async def log_in(self, password: str = PASSWORD) -> str:
        """A further token of the same user, or "" if the password is refused."""
        form = {"grant_type": "password", "username": self.username, "password": password}
        response = await self.client.post("/api/v1/auth/token", data=form)
        token: str = response.json().get("access_token", "")
        return token

    async def create_task(self, **fields: Any) -> dict[str, Any]:
        response = await self.client.post("/api/v1/tasks", json={"title": "Water"} | fields)
        assert response.status_code == 201, response.text
        task: dict[str, Any] = response.json()["data"]
        return task

    async def create_api_key(self, **fields: Any) -> dict[str, Any]:
        """A new API key, as the service answers it: with the `key` itself."""
        body = {"name": "machine", "scopes": list(SCOPES)} | fields
        response = await self.client.post("/api/v1/api-keys", json=body)
        assert response.status_code == 201, response.text
        key: dict[str, Any] = response.json()["data"]
        return key


async def until(condition: Callable[[], bool]) -> None:
    """Let the others work until the condition holds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while not condition():
            turn = loop.create_future()
            loop.call_soon(turn.set_result, None)
            await turn


async def waiting_for_a_lock(database: Database) -> None:
    """Return when some statement in this database waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(10), database.session() as session:
        while not await session.scalar(waiting):
            pass


def http_client(base_url: str, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30, verify=SSL_CONTEXT)


def blocking_client(base_url: str, headers: dict[str, str] | None = None) -> httpx.Client:
    """The same for what runs without an event loop."""
    return httpx.Client(base_url=base_url, headers=headers, timeout=30, verify=SSL_CONTEXT)


async def make_account(
    database: Database,
    base_url: str,
    *,
    scopes: list[str] | None = None,
    password_hash: str = "unusable",
) -> Account:
    """An account and a login in the database, without the cost of a password."""
    name = f"user-{uuid4().hex[:16]}"
    async with database.session() as session:
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
    assert user_id is not None
    token, credential_id = await make_credential(database, user_id, scopes=scopes)
    client = http_client(base_url, headers={"Authorization": f"Bearer {token}"})
    return Account(user_id, name, credential_id, token, client)


async def make_credential(
    database: Database,
    user_id: int,
    *,
    kind: CredentialKind = CredentialKind.LOGIN,
    scopes: list[str] | None = None,
    expires_in: timedelta = timedelta(hours=1),
) -> tuple[str, int]:
    """A credential in the database, with all scopes unless told otherwise: its token and id."""
    is_key = kind is CredentialKind.API_KEY
    token = new_token(KEY_PREFIX if is_key else LOGIN_PREFIX)
    statement = insert(Credential).values(
        user_id=user_id,
        kind=kind,
        digest=token_digest(token, SECRET_KEY),
        scopes=list(SCOPES) if scopes is None else scopes,
        name="machine" if is_key else None,
        prefix=token[:8] if is_key else None,
        expires_at=func.now() + expires_in,
    )
    async with database.session() as session:
        credential_id = await session.scalar(statement.returning(Credential.id))
    assert credential_id is not None
    return token, credential_id


# What the run as a whole asks of every service under test.
SERVICE_DEFAULTS: dict[str, Any] = {}


def as_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name.upper(): str(value) for name, value in settings.items()}


def service_settings(database_url: str, **overrides: Any) -> Settings:
    """The settings of a service under test, whatever the environment says."""
    return Settings.model_validate(
        {
            "environment": "testing",
            "database_url": database_url,
            "secret_key": SECRET_KEY,
            # Tests share one address, from which they guess wrong passwords all the time.
            "rate_limit_login": "",
            "rate_limit_login_address": "",
            **SERVICE_DEFAULTS,
            **overrides,
        }
    )


def statements_of(app: FastAPI) -> list[str]:
    """The first words of the statements that the application runs from now on, as they come."""
    statements: list[str] = []
    database: Database = app.state.database

    class NotingTransaction(Transaction):
        async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
            statements.append(statement.sql.split()[0])
            return await super().fetch(statement, values)

    class Noting(Database):
        async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
            statements.append(statement.sql.split()[0])
            return await super().fetch(statement, values)

        @contextlib.asynccontextmanager
        async def begin(self) -> AsyncGenerator[Transaction]:
            async with super().begin() as transaction:
                transaction.__class__ = NotingTransaction
                yield transaction

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def note(*arguments: Any) -> None:
        statements.append(arguments[2].split()[0])

    database.__class__ = Noting
    return statements


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve `app` by uvicorn on a port of its own, in a thread; yields the base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, **SERVER_OPTIONS)
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


def run_sql(database_url: str, *statements: str) -> None:
    """Run statements one by one; works with and without a running event loop."""

    async def run() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(lambda: asyncio.run(run())).result()


class RunningService:
    """A `taskflow serve` of its own process group, started as an operator starts it.

    On a port of its own unless told which.
    """

    def __init__(self, environment: dict[str, str], log: Path, *, port: int = 0) -> None:
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self._log = log
        self._output = ""
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [TASKFLOW, "serve"],
                env=CLEAN_ENVIRONMENT | environment | {"PORT": str(port)},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=log.parent,
            )

    def wait_until_ready(self) -> None:
        """Ask for readiness until the answer is yes; fails with the log if the process ends."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        with blocking_client(self.base_url) as client:
            while time.monotonic() < deadline:
                assert self.process.poll() is None, self.output()
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health/ready").status_code == 200:
                        return
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.05)
        raise AssertionError("the service did not become ready:\n" + self.output())

    def output(self) -> str:
        """All that the process has printed; also after its folder is gone."""
        if self._log.exists():
            self._output = self._log.read_text()
        return self._output

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(READY_WITHIN_SECONDS)


def production(database_url: str) -> dict[str, str]:
    """The environment of a service in production on this database."""
    return {
        "ENVIRONMENT": "production",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        # No load balancer has to notice that it ends.
        "SHUTDOWN_DELAY": "0",
        **as_environment(SERVICE_DEFAULTS),
    }


@contextlib.contextmanager
def running_service(
    database_url: str, port: int = 0, /, **environment: str
) -> Iterator[RunningService]:
    """A production service on `database_url`, ready, and stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        service = RunningService(
            production(database_url) | environment, Path(folder) / "log", port=port
        )
        try:
            service.wait_until_ready()
            yield service
            service.stop()
            service.output()
        finally:
            service.process.kill()
            service.process.wait()
