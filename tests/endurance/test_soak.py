"""Ten minutes of a mix of reads and writes at full speed."""

from pathlib import Path

import pytest

from tests.survival.soak import assert_nothing_grows, soak

pytestmark = [pytest.mark.endurance, pytest.mark.wrk]
SECONDS = 600


def test_ten_busy_minutes_fail_no_request_and_take_no_more_of_the_machine(tmp_path: Path) -> None:
    assert_nothing_grows(soak(SECONDS, tmp_path, print), megabytes=5)
