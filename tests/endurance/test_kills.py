"""kill -9 ten times over, of PostgreSQL and of the service, and ten failovers, under 16 writers."""

from pathlib import Path

import pytest

from tests.survival.stories import (
    BACK_WITHIN_SECONDS,
    CLIENTS_WAIT_SECONDS,
    Story,
    failovers,
    kills_of_postgres,
    kills_of_the_service,
)
from tests.survival.writers import NO_ANSWER

pytestmark = pytest.mark.endurance

TIMES = 10


def _tell(story: Story, what: str) -> None:
    pauses, writers = story
    print(  # noqa: T201 - the figures are what the run is for
        f"\n{what}: 0 acknowledged writes lost, 0 doubled; {writers.summary()}; next write after "
        f"{sorted(pauses)[len(pauses) // 2]:.2f} s in the median, {max(pauses):.2f} s at most"
    )


def test_ten_kills_of_postgres_lose_and_double_nothing() -> None:
    story = pauses, writers = kills_of_postgres(TIMES)
    _tell(story, f"{TIMES} kills of PostgreSQL")
    assert writers.statuses().keys() <= {200, 201, 503}
    assert writers.slowest() < CLIENTS_WAIT_SECONDS
    assert max(pauses) < BACK_WITHIN_SECONDS


def test_ten_kills_of_the_service_lose_and_double_nothing(tmp_path: Path) -> None:
    story = _, writers = kills_of_the_service(TIMES, tmp_path)
    _tell(story, f"{TIMES} kills of the service, from the start of its processes")
    assert writers.statuses().keys() <= {200, 201, 503, NO_ANSWER}


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_ten_failovers_lose_and_double_nothing(fault: str) -> None:
    story = pauses, writers = failovers(TIMES, fault=fault)
    _tell(story, f"{TIMES} failovers after {fault}, from the end of the promotion")
    assert writers.statuses().keys() <= {200, 201, 503}
    assert writers.slowest() < CLIENTS_WAIT_SECONDS
    assert max(pauses) < BACK_WITHIN_SECONDS
