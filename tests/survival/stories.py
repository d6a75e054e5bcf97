"""Crashes and failovers under writers, told as often as one likes: few times in CI, many at length.

Each returns the seconds from the return of what had crashed to the next write, and the writers.
"""

import time
from pathlib import Path

from tests.support import SECRET_KEY, RunningService, running_service
from tests.survival.cluster import Cluster, cluster, descendants, kill_all, standby_of
from tests.survival.writers import Writers

WRITES_BETWEEN = 50
# Kernels refuse connections to a port that nobody listens on; until then writers ask as well.
REFUSALS = 20
BACK_WITHIN_SECONDS = 2
CLIENTS_WAIT_SECONDS = 2

Story = tuple[list[float], Writers]


def kills_of_postgres(times: int) -> Story:
    pauses = []
    with cluster() as postgres, running_service(postgres.url, WORKERS="2") as service:
        with Writers(postgres.url, [service.base_url]) as writers:
            for _ in range(times):
                postgres.kill()
                writers.wait_for_answers(REFUSALS)
                postgres.start()
                pauses.append(writers.wait_for_writes(1))
                writers.wait_for_writes(WRITES_BETWEEN)
        writers.verify()
    return pauses, writers


def kills_of_the_service(times: int, folder: Path) -> Story:
    """The pauses are those from the start of its processes."""
    pauses = []
    with cluster() as postgres:
        settings = {"ENVIRONMENT": "production", "WORKERS": "2", "SECRET_KEY": SECRET_KEY}
        environment = settings | {"DATABASE_URL": postgres.url}
        service = RunningService(environment, folder / "log")
        try:
            service.wait_until_ready()
            with Writers(postgres.url, [service.base_url]) as writers:
                for number in range(times):
                    _kill(service)
                    writers.wait_for_answers(REFUSALS)
                    log = folder / f"log-{number}"
                    service = RunningService(environment, log, port=service.port)
                    pauses.append(writers.wait_for_writes(1))
                    writers.wait_for_writes(WRITES_BETWEEN)
            writers.verify()
        finally:
            _kill(service)
    return pauses, writers


def _kill(service: RunningService) -> None:
    kill_all([service.process.pid, *descendants(service.process.pid)])
    service.process.wait()


def url_of_both(first: Cluster, second: Cluster) -> str:
    """A URL that leads to the one of them that takes writes."""
    host = f"127.0.0.1:{first.port}"
    both = first.url.replace(host, f"{host},127.0.0.1:{second.port}")
    return both + "?target_session_attrs=read-write"


def failovers(times: int, *, fault: str = "kill") -> Story:
    """The primary crashes or hangs, the standby takes over, and what was the primary follows it."""
    pauses = []
    with cluster() as first, standby_of(first) as second:
        primary, standby = first, second
        url = url_of_both(first, second)
        with running_service(url) as service:
            with Writers(primary.url, [service.base_url]) as writers:
                for number in range(times):
                    if number > 0:
                        primary, standby = standby, primary
                        standby.copy_of(primary)
                        primary.wait_for_standby()
                        writers.wait_for_writes(WRITES_BETWEEN)
                    getattr(primary, fault)()
                    writers.wait_for_answers(REFUSALS)
                    standby.promote()
                    pauses.append(writers.wait_for_writes(1))
                    # It must not come back as a second primary.
                    primary.kill()
                    writers.wait_for_writes(WRITES_BETWEEN)
            writers.verify(standby.url)
    return pauses, writers


def switch_over() -> Story:
    """The primary is told to refuse writes, and keeps all its connections meanwhile."""
    with (
        cluster() as primary,
        standby_of(primary) as standby,
        running_service(url_of_both(primary, standby)) as service,
    ):
        with Writers(primary.url, [service.base_url]) as writers:
            primary.reload(default_transaction_read_only="on")
            writers.wait_for_answers(REFUSALS)
            standby.promote()
            promoted = time.monotonic()
            pauses = [writers.wait_for_writes(1)]
            writers.wait_for_writes(WRITES_BETWEEN)
        assert writers.last_failure() < promoted + BACK_WITHIN_SECONDS
        writers.verify(standby.url)
    return pauses, writers
