"""More connections than a process may open files at first."""

import pytest

from tests.conftest import NewDatabase
from tests.survival.connections import many_connections

# Under the limit of 1,024 files that a shell gives, the last of them would not be accepted.
CONNECTIONS = 1500


@pytest.mark.survival
async def test_one_worker_answers_on_fifteen_hundred_open_connections(
    new_database: NewDatabase,
) -> None:
    figures = await many_connections(new_database(), CONNECTIONS)

    assert figures.answered == CONNECTIONS
    assert figures.answered_again == CONNECTIONS
