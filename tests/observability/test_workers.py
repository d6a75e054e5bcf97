"""GET /metrics of several workers: one answers for all of them."""

import os
import re
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.core.metrics import common_folder
from app.core.settings import InvalidSettings
from tests.conftest import NewDatabase
from tests.observability.support import Samples, requests_of
from tests.support import (
    CLEAN_ENVIRONMENT,
    TASKFLOW,
    RunningService,
    blocking_client,
    running_service,
)

POOL_SIZE = 10


def get(service: RunningService, path: str) -> httpx.Response:
    """Over a connection of its own: whichever worker takes it answers."""
    with blocking_client(service.base_url) as client:
        return client.get(path)


def scrape(service: RunningService) -> Samples:
    return Samples.of(get(service, "/metrics").text)


def scrape_of_both(service: RunningService) -> Samples:
    """What is told once both workers have told the size of their pools."""
    while (samples := scrape(service)).total("db_client_connection_max") != 2 * POOL_SIZE:
        assert service.process.poll() is None
    return samples


def started_workers(service: RunningService, count: int) -> list[int]:
    """Their process ids, in order, once there are this many."""
    pattern = r"Started server process \[(\d+)\]"
    while len(found := re.findall(pattern, service.output())) < count:
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(0.05)
            raise AssertionError(service.output())
    assert len(found) == count
    return [int(pid) for pid in found]


def test_two_workers_serve_one_port_and_each_tells_the_metrics_of_both_and_of_the_dead(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    with running_service(new_database(), WORKERS="2", TMPDIR=str(tmp_path)) as service:
        first, second = started_workers(service, 2)
        before = scrape_of_both(service)
        for _ in range(40):
            assert get(service, "/health").status_code == 200
        scrapes = [scrape(service) for _ in range(8)]
        counted = [requests_of(s, "GET", "/health", 200) for s in scrapes]
        # The files of both have the workers' numbers in their names.
        (common,) = tmp_path.glob("taskflow-metrics-*")
        owners = {int(path.stem.rpartition("_")[2]) for path in common.glob("counter_*.db")}

        os.kill(first, signal.SIGKILL)
        started_workers(service, 3)
        after = scrape_of_both(service)
        left = {int(path.stem.rpartition("_")[2]) for path in common.glob("gauge_live*.db")}

    assert requests_of(before, "GET", "/health", 200) == 0
    assert counted == [40] * 8
    assert owners == {first, second}
    for samples in scrapes:
        assert samples.total("db_client_connection_max") == 2 * POOL_SIZE
        assert samples.total("taskflow_build_info") == 1
        assert samples.total("process_resident_memory_bytes") > 50_000_000
        assert not samples.values_of("pid")
    assert requests_of(after, "GET", "/health", 200) == 40
    assert first not in left
    assert not list(tmp_path.glob("taskflow-metrics-*")), "the folder goes with the service"
    assert "Traceback" not in service.output()


def test_no_place_for_the_common_folder_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(InvalidSettings, match="TMPDIR cannot be used"), common_folder(workers=2):
        raise AssertionError
    with common_folder(workers=1):
        assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def program(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Any command, with the metrics in this folder."""
    environment = CLEAN_ENVIRONMENT | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.run(
        [TASKFLOW, "version"], env=environment, capture_output=True, text=True, check=False
    )


def test_a_folder_that_is_named_for_the_metrics_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for metrics"
    done = program(folder)

    assert done.returncode == 0, done.stderr
    assert list(folder.glob("counter_*.db"))


def test_a_folder_for_the_metrics_that_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = program(file)

    assert done.returncode == 1
    assert "PROMETHEUS_MULTIPROC_DIR cannot be used: File exists" in done.stderr
    assert "Traceback" not in done.stderr
