"""Ten rolling restarts under writes, which fail no request."""

import pytest

from tests.conftest import NewDatabase
from tests.survival.test_restarts import failures, roll_under_writes


@pytest.mark.endurance
def test_ten_rolling_restarts_fail_no_request(new_database: NewDatabase) -> None:
    writers = roll_under_writes(new_database(), 10)

    print(f"ten rolling restarts: {writers.summary()}")  # noqa: T201 - the figure is what the run is for
    assert failures(writers) == []
    writers.verify()
