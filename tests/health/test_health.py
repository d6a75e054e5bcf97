"""GET /health and GET /health/ready."""

import asyncio
import socket
import time

import httpx
from sqlalchemy import event
from sqlalchemy.engine import make_url

from app.db.session import Database
from app.main import create_app
from tests.conftest import NewDatabase
from tests.silenceable_proxy import SilenceableProxy
from tests.support import (
    assert_error,
    http_client,
    served,
    service_settings,
)


async def test_a_running_process_is_healthy(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")

    assert response.status_code == 200
    assert response.json() == {
        "status": "success",
        "message": "ok",
        "data": {"status": "healthy"},
    }


async def test_a_service_with_its_database_is_ready(client: httpx.AsyncClient) -> None:
    response = await client.get("/health/ready")

    assert response.status_code == 200
    assert response.json()["data"] == {"status": "ready", "database": "connected"}


async def test_without_a_database_the_service_is_alive_but_not_ready() -> None:
    settings = service_settings("postgresql://nobody:secret@127.0.0.1:1/none")
    with served(create_app(settings)) as base_url:
        async with http_client(base_url) as client:
            assert (await client.get("/health")).status_code == 200
            response = await client.get("/health/ready")

    assert_error(response, 503, "database_unavailable")
    assert response.headers["Retry-After"] == "1"


async def test_a_database_that_does_not_answer_is_given_up_on_within_two_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        settings = service_settings(f"postgresql://nobody:secret@127.0.0.1:{port}/none")
        with served(create_app(settings)) as base_url:
            async with http_client(base_url) as client:
                started = time.monotonic()
                response = await client.get("/health/ready")
                elapsed = time.monotonic() - started

    assert_error(response, 503, "database_unavailable")
    # A deadline of the contract.
    assert elapsed < 2


async def test_those_who_ask_at_once_take_one_connection(new_database: NewDatabase) -> None:
    database = Database(service_settings(new_database()))
    opened: list[object] = []
    probe = database._probe.sync_engine  # noqa: SLF001 - its connections show nowhere else
    event.listen(probe, "connect", lambda *arguments: opened.append(arguments))

    try:
        assert await asyncio.gather(*(database.is_ready() for _ in range(20))) == [True] * 20
        assert len(opened) == 1
        # Later it may be otherwise.
        assert await database.is_ready()
        assert len(opened) == 2
    finally:
        await database.close()


async def test_a_database_that_falls_silent_is_given_up_on_within_two_seconds(
    new_database: NewDatabase,
) -> None:
    target = make_url(new_database())
    async with SilenceableProxy(target.host or "", target.port or 5432) as proxy:
        through_proxy = target.set(host="127.0.0.1", port=proxy.port)
        settings = service_settings(
            through_proxy.render_as_string(hide_password=False), database_statement_timeout=0.5
        )
        with served(create_app(settings)) as base_url:
            async with http_client(base_url) as client:
                assert (await client.get("/health/ready")).status_code == 200
                form = {"grant_type": "password", "username": "ada", "password": "secret"}
                assert (await client.post("/api/v1/auth/token", data=form)).status_code == 400
                proxy.silent = True
                started = time.monotonic()
                response = await client.get("/health/ready")
                elapsed = time.monotonic() - started
                on_a_warm_pool = await client.post("/api/v1/auth/token", data=form)

    assert_error(response, 503, "database_unavailable")
    # A deadline of the contract.
    assert elapsed < 2
    assert_error(on_a_warm_pool, 503, "database_unavailable")


async def test_a_database_without_our_tables_is_not_ready(
    new_empty_database: NewDatabase,
) -> None:
    settings = service_settings(new_empty_database())
    with served(create_app(settings)) as base_url:
        async with http_client(base_url) as client:
            response = await client.get("/health/ready")

    assert_error(response, 503, "database_unavailable")
