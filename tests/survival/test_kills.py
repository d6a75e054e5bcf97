"""kill -9 under writers, and failovers: nothing that was acknowledged is lost, nothing is doubled.

tests/endurance/test_kills.py tells the same at length.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alembic import command
from app.db.migrations import alembic_config
from app.db.session import Database
from tests.support import blocking_client, make_account, running_service, service_settings
from tests.survival.cluster import cluster, standby_of
from tests.survival.stories import (
    BACK_WITHIN_SECONDS,
    CLIENTS_WAIT_SECONDS,
    failovers,
    kills_of_postgres,
    kills_of_the_service,
    switch_over,
    url_of_both,
)
from tests.survival.writers import NO_ANSWER

pytestmark = pytest.mark.survival


def test_kills_of_postgres_lose_and_double_nothing() -> None:
    pauses, writers = kills_of_postgres(2)
    assert max(pauses) < BACK_WITHIN_SECONDS
    assert writers.statuses().keys() <= {200, 201, 503}
    assert writers.slowest() < CLIENTS_WAIT_SECONDS


def test_kills_of_the_service_lose_and_double_nothing(tmp_path: Path) -> None:
    _, writers = kills_of_the_service(2, tmp_path)
    assert writers.statuses().keys() <= {200, 201, 503, NO_ANSWER}


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_failover_to_the_synchronous_standby_loses_and_doubles_nothing(fault: str) -> None:
    pauses, writers = failovers(1, fault=fault)
    assert max(pauses) < BACK_WITHIN_SECONDS
    assert writers.statuses().keys() <= {200, 201, 503}
    assert writers.slowest() < CLIENTS_WAIT_SECONDS


def test_a_primary_that_becomes_read_only_is_left_for_the_other_server() -> None:
    pauses, writers = switch_over()
    assert max(pauses) < BACK_WITHIN_SECONDS
    assert writers.statuses().keys() <= {200, 201, 503}


def test_without_its_standby_a_primary_acknowledges_nothing_not_even_a_repeat() -> None:
    with (
        cluster() as primary,
        standby_of(primary) as standby,
        running_service(primary.url, DATABASE_STATEMENT_TIMEOUT="0.2") as service,
        asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner,
        ThreadPoolExecutor(3) as elsewhere,
    ):
        headers = runner.run(login_of_somebody(primary.url))
        with blocking_client(service.base_url, headers) as client:

            def write(way: str) -> int:
                if way == "put":
                    return client.put("/api/v1/tasks/external/a", json={"title": "a"}).status_code
                key = {"Idempotency-Key": "b"}
                return client.post("/api/v1/tasks", json={"title": "b"}, headers=key).status_code

            standby.freeze()
            # Two repeats wait for the first; what they then find was never acknowledged.
            assert list(elsewhere.map(write, ["put", "post", "post"])) == [503] * 3
            assert list(elsewhere.map(write, ["put", "post"])) == [503] * 2
            assert client.get("/api/v1/tasks").status_code == 200
            standby.thaw()
            primary.wait_for_standby()
            assert list(elsewhere.map(write, ["put", "post"])) == [200, 201]
            assert client.get("/api/v1/tasks").json()["data"]["total"] == 2


async def login_of_somebody(database_url: str) -> dict[str, str]:
    """The headers of a login that is made in the database."""
    database = Database(service_settings(database_url))
    account = await make_account(database, "http://unused")
    await account.client.aclose()
    await database.close()
    return {"Authorization": f"Bearer {account.token}"}


def test_migrations_find_the_server_that_takes_writes() -> None:
    with cluster() as primary, standby_of(primary) as standby:
        config = alembic_config(url_of_both(standby, primary))
        # Alembic needs a thread without an event loop.
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(command.downgrade, config, "-1").result()
            before = primary.sql("SELECT version_num FROM alembic_version")
            elsewhere.submit(command.upgrade, config, "head").result()
        assert primary.sql("SELECT version_num FROM alembic_version") > before
