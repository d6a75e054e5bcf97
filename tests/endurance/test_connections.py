"""Ten thousand connections to one worker."""

import asyncio

import pytest

from tests.conftest import NewDatabase
from tests.survival.connections import many_connections

CONNECTIONS = 10_000


@pytest.mark.endurance
async def test_one_worker_answers_on_ten_thousand_open_connections(
    new_database: NewDatabase,
) -> None:
    figures = await asyncio.wait_for(many_connections(new_database(), CONNECTIONS), 300)

    print(figures)  # noqa: T201 - the figure is what the run is for
    assert figures.answered == CONNECTIONS
    assert figures.answered_again == CONNECTIONS
    # Of it about half is the kernel's limit on files, and none is left behind.
    assert figures.bytes_each < 40_000
