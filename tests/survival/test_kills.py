"""kill -9 under writers, and failovers: nothing that was acknowledged is lost, nothing is doubled.

tests/endurance/test_kills.py tells the same at length.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alembic import command
from app.db.migrations import alembic_config
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


def test_migrations_find_the_server_that_takes_writes() -> None:
    with cluster() as primary, standby_of(primary) as standby:
        config = alembic_config(url_of_both(standby, primary))
        # Alembic needs a thread without an event loop.
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(command.downgrade, config, "-1").result()
            before = primary.sql("SELECT version_num FROM alembic_version")
            elsewhere.submit(command.upgrade, config, "head").result()
        assert primary.sql("SELECT version_num FROM alembic_version") > before
