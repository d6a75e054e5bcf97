"""Ten rollouts behind HAProxy under writers, and not one request that fails."""

import pytest

from tests.conftest import NewDatabase
from tests.proxies import haproxy
from tests.survival.nodes import behind, failures_of
from tests.survival.writers import Writers

pytestmark = [pytest.mark.endurance, pytest.mark.haproxy]

ROLLOUTS = 10


def test_ten_rollouts_under_writers_fail_no_request(new_database: NewDatabase) -> None:
    database_url = new_database()
    with (
        behind(haproxy, database_url) as (base_url, nodes),
        Writers(database_url, [base_url]) as writers,
    ):
        for _ in range(ROLLOUTS):
            for index in (0, 1):
                writers.wait_for_writes(50)
                nodes.restart(index)
        writers.wait_for_writes(50)
    writers.verify()
    print(writers.summary())  # noqa: T201 - the figure is what the run is for
    assert failures_of(writers).total() == 0
