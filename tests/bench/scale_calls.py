"""Lists, searches and batches where millions of tasks are, asked by one client.

What is compared takes turns, so that both sides meet the same neighbours on a busy machine, and
figures are medians.
"""

import asyncio
import http.client
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg

from tests.bench.data import Person
from tests.bench.processes import processor_seconds
from tests.bench.scale_data import Owners, random_word, word
from tests.bench.scale_plans import explainer
from tests.bench.scale_writes import backends_of
from tests.bench.sides import Side

Say = Callable[[str], None]
SORTS = [
    sign + key
    for key in ("created_at", "updated_at", "due", "priority", "title")
    for sign in ("", "-")
]
PAGE_ROWS = 21
DEEP_PAGE = 10_000
_TASKS = "/api/v1/tasks"
_REQUESTS = 30
# PostgreSQL thinks about a statement's plan at its first five executions.
_WARM_UP = 7
_BATCHES = 20
_PAIRS = 200


class Refused(Exception):
    """A request that should have succeeded did not."""


class Client:
    """One client on one connection."""

    def __init__(self, side: Side) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=60)

    def call(self, person: Person, path: str, body: Any = None) -> tuple[float, Any]:
        """Milliseconds, and the `data` of the answer. Raises `Refused`."""
        headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        begun = time.perf_counter()
        self._connection.request("POST" if body else "GET", path, content, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        milliseconds = (time.perf_counter() - begun) * 1000
        if answer.status != http.client.OK:
            raise Refused(f"{path}: {answer.status} {text[:500]!r}")
        return milliseconds, json.loads(text)["data"]

    def in_turns(
        self, first: tuple[Person, str], second: tuple[Person, str], number: int = _REQUESTS
    ) -> tuple[float, float]:
        """The medians of two calls in milliseconds."""
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(_WARM_UP + number):
            for into, (person, path) in zip(times, (first, second), strict=True):
                took = self.call(person, path)[0]
                if turn >= _WARM_UP:
                    into.append(took)
        return statistics.median(times[0]), statistics.median(times[1])


def filters_to_measure(external_id: str) -> dict[str, str]:
    """Query parameters by a name for them: each filter, with what is frequent and what is rare."""
    now = time.time()

    def ago(days: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - days * 86_400))

    parameters: dict[str, Any] = {
        "status": {"status": "pending"},
        "status, two": {"status": ["pending", "in_progress"]},
        # "priority" is an order.
        "priority, one": {"priority": "critical"},
        "tag, frequent": {"tag": "tag2"},
        "tag, rare": {"tag": "tag400"},
        "q, frequent": {"q": word(3)},
        "q, rare": {"q": f'"{word(2_000)}"'},
        "q, two words": {"q": f"{word(5)} {word(40)}"},
        "due_after": {"due_after": ago(300)},
        "due_after, few": {"due_after": ago(-45)},
        "due_before": {"due_before": ago(300)},
        "due_before, few": {"due_before": ago(715)},
        "a month by due": {"sort": "due", "due_after": ago(100), "due_before": ago(70)},
        "a month by -due": {"sort": "-due", "due_after": ago(600), "due_before": ago(570)},
        "overdue=true": {"overdue": "true"},
        "overdue=false": {"overdue": "false"},
        "created_after": {"created_after": ago(10)},
        "created_before": {"created_before": ago(720)},
        "updated_after": {"updated_after": ago(10)},
        "updated_before": {"updated_before": ago(300)},
        "updated_before, few": {"updated_before": ago(720)},
        "external_id": {"external_id": external_id},
    }
    return {name: urlencode(given, doseq=True) for name, given in parameters.items()}


class Measurement:
    """The parts of the measurement, on a service that runs and a database that is filled."""

    def __init__(self, url: str, side: Side, owners: Owners, say: Say) -> None:
        self._url = url
        self._side = side
        self._client = Client(side)
        self._owners = owners
        self._say = say

    def _first_page(self, name: str, parameters: str, other: str | None = None) -> dict[str, Any]:
        large, small = self._owners.large, self._owners.small
        path = f"{_TASKS}?count=false&{parameters}"
        theirs = f"{_TASKS}?count=false&{other or parameters}"
        of_large, of_small = self._client.in_turns((large, path), (small, theirs))
        cells = {
            "large_ms": round(of_large, 2),
            "small_ms": round(of_small, 2),
            "ratio": round(of_large / of_small, 2),
        }
        self._say(f"{name:26}{of_large:>9.2f}{of_small:>9.2f}{of_large / of_small:>8.2f}x")
        return cells

    def first_pages(self) -> dict[str, Any]:
        """The first page without a total: of the large owner against the small one."""
        self._say(f"\n{'First page (ms)':26}{'large':>9}{'small':>9}{'ratio':>9}")
        found = {sort: self._first_page(sort, f"sort={quote(sort)}") for sort in SORTS}
        names = [
            next(
                task["external_id"]
                for task in self._client.call(person, f"{_TASKS}?count=false&per_page=100")[1][
                    "tasks"
                ]
                if task["external_id"]
            )
            for person in (self._owners.large, self._owners.small)
        ]
        others = filters_to_measure(names[1])
        for name, parameters in filters_to_measure(names[0]).items():
            found[name] = self._first_page(name, parameters, others[name])
        return found

    def deep_pages(self) -> dict[str, Any]:
        """The 10,000th page of the large owner, by a cursor, against the first."""
        self._say(f"\n{'Cursor (ms)':26}{'deep':>9}{'first':>9}{'ratio':>9}")
        page = min(DEEP_PAGE, self._owners.tasks_of_large // 20 - 1)
        found = {}
        person = self._owners.large
        for sort in SORTS:
            path = f"{_TASKS}?count=false&sort={quote(sort)}"
            cursor = self._client.call(person, f"{path}&page={page - 1}")[1]["next_cursor"]
            deep, first = self._client.in_turns((person, f"{path}&cursor={cursor}"), (person, path))
            found[sort] = {
                "deep_ms": round(deep, 2),
                "first_ms": round(first, 2),
                "ratio": round(deep / first, 2),
            }
            self._say(f"{sort:26}{deep:>9.2f}{first:>9.2f}{deep / first:>8.2f}x")
        return found

    def searches(self) -> dict[str, Any]:
        """Two words, as frequent in searches as in texts; whole, and the last one unfinished."""
        chance = random.Random(1)
        pairs: dict[tuple[str, str], None] = {}
        while len(pairs) < _PAIRS:
            pairs[random_word(chance), random_word(chance)] = None
        found = {}
        for owner, person in (("large", self._owners.large), ("small", self._owners.small)):
            for counted in ("false", "true"):
                for typed, letters in (("whole words", None), ("unfinished", 4)):
                    times: list[tuple[float, str]] = []
                    for one, other in pairs:
                        q = f"{one} {other[:letters]}"
                        path = f"{_TASKS}?{urlencode({'q': q, 'count': counted})}"
                        times.append((self._client.call(person, path)[0], q))
                    milliseconds = [took for took, _ in times]
                    name = f"{owner}, {typed}, count={counted}"
                    found[name] = {
                        "p50_ms": round(statistics.median(milliseconds), 1),
                        "p95_ms": round(statistics.quantiles(milliseconds, n=20)[18], 1),
                        "max_ms": round(max(milliseconds), 1),
                        "slowest": max(times)[1],
                    }
                    self._say(f"Search of two words, {name}: {found[name]}")
        return found

    async def _count(self) -> float:
        connection = await asyncpg.connect(self._url)
        try:
            sql = "SELECT count(*) FROM tasks WHERE owner_id = $1 AND deleted_at IS NULL"
            begun = time.perf_counter()
            await connection.fetchval(sql, self._owners.large.id)
            return (time.perf_counter() - begun) * 1000
        finally:
            await connection.close()

    def total(self) -> dict[str, Any]:
        """A page with its total against PostgreSQL's own count."""
        pages, counts = [], []
        for _ in range(_REQUESTS):
            pages.append(self._client.call(self._owners.large, _TASKS)[0])
            counts.append(asyncio.run(self._count()))
        page, count = statistics.median(pages), statistics.median(counts)
        ratio = round(page / count, 2)
        self._say(f"\nPage with the total {page:.0f} ms, count(*) {count:.0f} ms: {ratio}x")
        return {"page_ms": round(page, 1), "count_ms": round(count, 1), "ratio": ratio}

    def batches(self) -> dict[str, Any]:
        """Batches of a thousand small tasks over one connection."""
        backends = asyncio.run(backends_of(self._url))
        rates, before = [], self._processor(backends)
        for number in range(_BATCHES):
            body = {
                "operations": [
                    {"op": "create", "task": {"title": f"Call number {number * 1000 + index}"}}
                    for index in range(1_000)
                ]
            }
            took, _ = self._client.call(self._owners.small, f"{_TASKS}/batch", body)
            rates.append(1_000 / took * 1_000)
        service, database = (
            (after - earlier) / _BATCHES * 1_000
            for after, earlier in zip(self._processor(backends), before, strict=True)
        )
        rate = statistics.median(rates)
        self._say(
            f"Batches: {rate:,.0f} tasks a second; {service:.0f} us of the processor for a task in"
            f" the service, {database:.0f} us in PostgreSQL"
        )
        return {
            "per_second": round(rate),
            "best_per_second": round(max(rates)),
            "service_us_per_task": round(service),
            "database_us_per_task": round(database),
        }

    def _processor(self, backends: list[int]) -> tuple[float, float]:
        """Seconds of the processor that the service and its connections have taken."""
        return processor_seconds(self._side.pid), sum(map(processor_seconds, backends))

    def plans(self, into: Path) -> dict[str, Any]:
        """The plans of each list, kept as text, and what is wrong with them."""
        found, text = asyncio.run(self._plans())
        into.write_text(text)
        return found

    async def _plans(self) -> tuple[dict[str, Any], str]:
        lists = {sort: f"count=false&sort={quote(sort)}" for sort in SORTS}
        lists |= {"page 5": "count=false&page=5", "the total": "count=true"}
        for name, parameters in filters_to_measure("crm/10").items():
            lists[name] = f"count=false&{parameters}"
        found: dict[str, Any] = {}
        texts = []
        self._say(f"\n{'In PostgreSQL (ms)':26}{'large':>9}{'small':>9}{'rows read':>12}")
        async with explainer(self._url) as explain:
            for name, parameters in lists.items():
                plan = await explain.plan(parameters, self._owners.large)
                small = await explain.plan(parameters, self._owners.small)
                texts.append(f"# {name}\n{plan.text}\n")
                faults = plan.faults(PAGE_ROWS)
                found[name] = {
                    "large_ms": plan.milliseconds,
                    "small_ms": small.milliseconds,
                    "rows_read": plan.rows_read,
                    "faults": faults,
                }
                self._say(
                    f"{name:26}{plan.milliseconds:>9.2f}{small.milliseconds:>9.2f}"
                    f"{plan.rows_read:>12,}  {'; '.join(faults)}"
                )
        return found, "\n".join(texts)
