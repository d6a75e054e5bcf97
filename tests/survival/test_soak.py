"""The short form of tests/endurance/test_soak.py."""

from pathlib import Path

import pytest

from tests.survival.soak import assert_nothing_grows, soak

pytestmark = [pytest.mark.survival, pytest.mark.wrk]


def test_a_busy_service_fails_no_request_and_takes_no_more_and_more(tmp_path: Path) -> None:
    # Memory that is filled once is not full after so short a time.
    assert_nothing_grows(soak(8, tmp_path, print), megabytes=10)
