"""Through PgBouncer: all that the API promises, and as many requests as a busy hour brings."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.calls import requests_of
from tests.bench.data import SECRET_KEY, seed
from tests.bench.load import saturate
from tests.conftest import NewDatabase
from tests.proxies import pgbouncer
from tests.support import CLEAN_ENVIRONMENT, running_service

pytestmark = [pytest.mark.endurance, pytest.mark.pgbouncer]

ROOT = Path(__file__).resolve().parents[2]
# The tests that speak to the service by HTTP or by its commands. The others are about the
# development database, the files of the project, and servers that they stop themselves.
LANE = (
    *("accounts", "authorization", "cli", "concurrency", "contract", "core", "faults", "health"),
    *("migrations", "model", "observability", "readme", "tasks"),
)
REQUESTS = 100_000
SLICE_SECONDS = 20


def test_every_test_of_the_service_passes_through_pgbouncer() -> None:
    folders = [f"tests/{folder}" for folder in LANE]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--through-pgbouncer", "--quiet", *folders],
        cwd=ROOT,
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    print(done.stdout.splitlines()[-1])  # noqa: T201 - the figure is what the run is for
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 1000


@pytest.mark.wrk
def test_of_100_000_requests_none_fails(new_database: NewDatabase) -> None:
    database_url = new_database()
    people = asyncio.run(seed(database_url, users=100, tasks=200))
    environment = {
        "DATABASE_POOLER": "transaction",
        "SECRET_KEY": SECRET_KEY,
        "WORKERS": "2",
        "RATE_LIMIT_API": "",
    }
    sent = slices = 0.0
    # 16 at once keep 20 connections of the workers busy, which PgBouncer serves with four.
    four = {"default_pool_size = 20": "default_pool_size = 4"}
    with (
        pgbouncer(database_url, four) as url,
        running_service(url, **environment) as service,
    ):
        host = service.base_url.removeprefix("http://")
        while sent < REQUESTS:
            slices += 1
            calls = requests_of("mix", people, host, number=20_000, seed=int(slices))
            # Raises for any answer but a 2xx.
            load = saturate(service.base_url, service.process.pid, calls, SLICE_SECONDS)
            sent += load.per_second * SLICE_SECONDS
    rate = sent / slices / SLICE_SECONDS
    print(f"{sent:.0f} requests, {rate:.0f} a second, none failed")  # noqa: T201 - see above
    assert sent >= REQUESTS
