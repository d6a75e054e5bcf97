"""What Prometheus is told: every metric of the service, and their text.

Names and units of HTTP and database metrics are OpenTelemetry's semantic conventions, so that
dashboards made for those work; what only taskflow has starts with `taskflow_`. Labels hold route
templates and names from the code, never what a client sends: their number is bounded.

With several workers each keeps its values in files of a common folder, named by the variable
`PROMETHEUS_MULTIPROC_DIR` before this module is imported; whichever is asked adds them up.
"""

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from anyio import to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app import __version__
from app.core.processes import is_alive
from app.core.settings import InvalidSettings

# How old another worker's gauges, such as that of requests under way, can be when they are read.
PUBLISH_EVERY_SECONDS = 1.0
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# What a method is called that HTTP does not know, and the route of a path that leads nowhere.
OTHER = "_OTHER"
UNMATCHED = "unmatched"
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


def _make_named_folder() -> None:
    """Make the folder that `PROMETHEUS_MULTIPROC_DIR` names; ends the process where none can be."""
    name = os.environ.get(FOLDER_VARIABLE)
    if name is None:
        return
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=name).close()
    except OSError as error:
        fault = f"  {FOLDER_VARIABLE} cannot be used: {error.strerror}"
        raise SystemExit(str(InvalidSettings([fault]))) from None


# Each metric opens a file there when it is declared.
_make_named_folder()

# Apart from the registry of the process, which belongs to whoever embeds the service.
REGISTRY = CollectorRegistry()

REQUESTS = Histogram(
    "http_server_request_duration_seconds",
    "Requests: how many there were, and how long they took until the end of the answer.",
    ["http_request_method", "http_route", "http_response_status_code"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
RESPONSE_BYTES = Counter(
    # A histogram, as OpenTelemetry has it, would take as long as all the rest.
    "http_server_response_body_bytes",
    "Bytes of the bodies of answers.",
    ["http_request_method", "http_route"],
    registry=REGISTRY,
)
ACTIVE_REQUESTS = Gauge(
    "http_server_active_requests",
    "Requests under way.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
REFUSED_REQUESTS = Counter(
    "taskflow_refused_requests",
    "Requests refused at once because too many were under way.",
    registry=REGISTRY,
)
OPERATIONS = Histogram(
    "db_client_operation_duration_seconds",
    "Statements sent to the database: how many, and how long until the last row was here.",
    ["db_operation_name"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10),
    registry=REGISTRY,
)
CONNECTIONS = Gauge(
    # OpenTelemetry's name ends with _count, which in Prometheus belongs to histograms.
    "db_client_connections",
    "Connections of the pool to the database, idle or used.",
    ["state"],
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
CONNECTIONS_MAXIMUM = Gauge(
    "db_client_connection_max",
    "The most connections that the pool may have.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
CONNECTIONS_AWAITED = Gauge(
    "db_client_connection_pending_requests",
    "How many wait for a connection of the pool.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
CONNECTION_TIMEOUTS = Counter(
    "db_client_connection_timeouts",
    "How often a wait for a connection of the pool was given up.",
    registry=REGISTRY,
)
AUTHENTICATIONS = Counter(
    "taskflow_authentications",
    "Credentials that came with requests: known from memory, looked up, or refused.",
    ["result"],
    registry=REGISTRY,
)
AUDIT_EVENTS = Counter(
    "taskflow_audit_events",
    "What happened to accounts and credentials, such as login, login_failed and login_limited.",
    ["event"],
    registry=REGISTRY,
)
RATE_LIMITED = Counter(
    "taskflow_rate_limited",
    "Requests refused because of a limit, by its name.",
    ["limit"],
    registry=REGISTRY,
)
IDEMPOTENT_REPLAYS = Counter(
    "taskflow_idempotent_replays",
    "Repeated writes that were given their first answer again.",
    registry=REGISTRY,
)
PURGED_ROWS = Counter(
    "taskflow_purged_rows",
    "Rows removed for good because they had had their time.",
    ["kind"],
    registry=REGISTRY,
)
BUILD_INFO = Gauge(
    "taskflow_build_info",
    "Always 1, for what runs.",
    ["version", "python_version"],
    multiprocess_mode="max",
    registry=REGISTRY,
)


@dataclass(frozen=True, slots=True)
class PoolState:
    """The connections of a pool, and how many wait for one."""

    maximum: int
    used: int
    idle: int
    awaited: int


class Metrics:
    """The requests of one application, and the text of all metrics of its process, or its workers.

    `pool_state` tells how the application's connections are used at the moment.
    """

    def __init__(self, pool_state: Callable[[], PoolState]) -> None:
        self.active = 0
        self._children: dict[tuple[str, str | None, int], tuple[Histogram, Counter]] = {}
        self._pool_state = pool_state
        self._rendering: asyncio.Task[bytes] | None = None
        self._folder = os.environ.get(FOLDER_VARIABLE)
        BUILD_INFO.labels(__version__, platform.python_version()).set(1)

    def count(
        self, method: str, route: str | None, status: int, *, seconds: float, size: int
    ) -> None:
        """A finished request: its route's template, its duration, the bytes of its answer's body.

        Takes a few microseconds.
        """
        if method not in METHODS:
            method = OTHER
        children = self._children.get((method, route, status))
        if children is None:
            children = self._children[method, route, status] = (
                REQUESTS.labels(method, route or UNMATCHED, status),
                RESPONSE_BYTES.labels(method, route or UNMATCHED),
            )
        duration, body_bytes = children
        duration.observe(seconds)
        body_bytes.inc(size)

    async def text(self) -> bytes:
        """All metrics in the text format 0.0.4, rendered once for all who ask at the same time."""
        if self._rendering is None or self._rendering.done():
            self._publish()
            self._rendering = asyncio.create_task(to_thread.run_sync(self._render))
        return await asyncio.shield(self._rendering)

    @asynccontextmanager
    async def published(self) -> AsyncIterator[None]:
        """While the block runs, keep the gauges of this worker where the others read them."""
        task = asyncio.create_task(self._publish_regularly()) if self._folder else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _publish_regularly(self) -> None:
        while True:
            self._publish()
            await asyncio.sleep(PUBLISH_EVERY_SECONDS)

    def _publish(self) -> None:
        """Set the gauges, whose values requests and the pool keep without knowing of metrics."""
        pool = self._pool_state()
        ACTIVE_REQUESTS.set(self.active)
        CONNECTIONS.labels("used").set(pool.used)
        CONNECTIONS.labels("idle").set(pool.idle)
        CONNECTIONS_MAXIMUM.set(pool.maximum)
        CONNECTIONS_AWAITED.set(pool.awaited)

    def _render(self) -> bytes:
        if self._folder is None:
            return generate_latest(_Exposed([os.getpid()], REGISTRY.collect()))
        files = [file for file in Path(self._folder).glob("*.db") if file.stat().st_size]
        workers = {int(file.stem.rpartition("_")[2]) for file in files}
        live = [pid for pid in workers if is_alive(pid)]
        for pid in workers.difference(live):
            # What it counted stays, or counters would fall. What it was doing has ended.
            with suppress(FileNotFoundError):
                mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
        files = [file for file in files if file.exists()]
        merged = MultiProcessCollector.merge([str(file) for file in files])  # type: ignore[no-untyped-call]
        return generate_latest(_Exposed(live, merged))


class _Exposed(Collector):
    """The metrics, and those of the processes, as they are exposed.

    The series `…_created` are left out: they would double the number of all.
    """

    def __init__(self, processes: list[int], metrics: Iterable[Metric]) -> None:
        self._processes = processes
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric
        yield from _process_metrics(self._processes)


def _process_metrics(processes: list[int]) -> Iterable[Metric]:
    """Processor time, memory and files of all workers together; nothing where there is no /proc."""
    totals: dict[str, Metric] = {}
    for pid in processes:
        for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
            (sample,) = metric.samples
            if metric.name not in totals:
                totals[metric.name] = metric
                continue
            (total,) = totals[metric.name].samples
            together = min if metric.name == "process_start_time_seconds" else add
            value = together(total.value, sample.value)
            totals[metric.name].samples = [total._replace(value=value)]
    return totals.values()


@contextmanager
def common_folder(*, workers: int) -> Iterator[None]:
    """A folder where several workers, started within the block, add up their metrics.

    It is gone at the end. One that `PROMETHEUS_MULTIPROC_DIR` names already is left as it is.
    Raises `InvalidSettings` where there is no place for it.
    """
    if workers == 1 or FOLDER_VARIABLE in os.environ:
        yield
        return
    try:
        temporary = TemporaryDirectory(prefix="taskflow-metrics-")
    except OSError as error:
        raise InvalidSettings([f"  TMPDIR cannot be used: {error.strerror}"]) from None
    with temporary as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER_VARIABLE]
