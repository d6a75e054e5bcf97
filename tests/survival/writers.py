"""Clients that write while something fails, and that know afterwards what they were promised."""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

import httpx

from app.db.session import Database
from tests.db.support import PATIENCE, run_sql
from tests.support import Account, http_client, make_account, service_settings

# A line for each of many thousand requests would fill the memory of pytest, and its reports.
logging.getLogger("httpx").setLevel(logging.WARNING)

# Between a refusal and the next attempt, in seconds; `Retry-After` names whole seconds.
PAUSE_SECONDS = 0.05
NO_ANSWER = 0


@dataclass(frozen=True)
class Answer:
    """What one request got; `status` is NO_ANSWER if the connection broke."""

    asked_at: float
    seconds: float
    status: int
    code: str
    retry_after: str
    method: str


class Writers:
    """Writes at full speed from its own thread, each writer one request after the other.

    Creations carry an `Idempotency-Key`, replacements an `external_id`: both are repeated until
    they are acknowledged by a 2xx. After each attempt a list is read. Each writer has an
    account of its own, and takes the base URLs in turns after a failure.
    """

    def __init__(self, database_url: str, base_urls: Sequence[str], *, count: int = 16) -> None:
        self.answers: list[Answer] = []
        """Every answer, in the order in which they came."""
        self.acknowledged: set[str] = set()
        """The titles of tasks that the service says are stored."""
        self._database_url = database_url
        self._base_urls = list(base_urls)
        self._count = count
        # Others may have written to the same database before.
        self._name = uuid4().hex[:8]
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._failure: BaseException | None = None
        self._under_way: dict[object, float] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for_writes(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._loop.close()
        assert self._failure is None, self._failure

    def wait_until(self, condition: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
        """Wait until the condition holds, which is asked after each answer."""
        with self._news:
            held = self._news.wait_for(lambda: condition() or self._failure, seconds)
        assert held, f"not within {seconds} s: {self.summary()}"
        assert self._failure is None, self._failure

    def wait_for_writes(self, more: int, *, seconds: float = PATIENCE) -> float:
        """Wait until so many more writes are acknowledged; returns how long it took."""
        started = time.monotonic()
        wanted = len(self.acknowledged) + more
        self.wait_until(lambda: len(self.acknowledged) >= wanted, seconds=seconds)
        return time.monotonic() - started

    def wait_for_answers(self, more: int, *, seconds: float = PATIENCE) -> list[Answer]:
        """Wait for so many answers to requests that are asked from now on; returns them."""
        since = time.monotonic()
        self.wait_until(lambda: len(self.asked_since(since)) >= more, seconds=seconds)
        return self.asked_since(since)

    def wait_for_answers_asked_before(self, moment: float) -> None:
        """Wait until nothing is under way any more that was asked before this moment."""
        self.wait_until(lambda: min(self._under_way.values(), default=moment) >= moment)

    def asked_since(self, moment: float) -> list[Answer]:
        """The answers to requests that were asked at this moment of `time.monotonic()` or later."""
        return [answer for answer in list(self.answers) if answer.asked_at >= moment]

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def slowest(self) -> float:
        return max(answer.seconds for answer in self.answers)

    def last_failure(self) -> float:
        """When the last request was asked that did not succeed; 0 if all did."""
        return max(
            (answer.asked_at for answer in self.answers if answer.status not in {200, 201}),
            default=0,
        )

    def summary(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{status or 'none'}: {n}" for status, n in self.statuses().items())
        return f"{len(self.acknowledged)} writes, slowest {self.slowest():.2f} s, answers {counts}"

    def verify(self, database_url: str | None = None) -> None:
        """No acknowledged write is lost, and none is there twice. Call it after the block."""
        titles = run_sql(database_url or self._database_url, "SELECT array_agg(title) FROM tasks")
        stored = Counter(titles)
        lost = self.acknowledged - stored.keys()
        assert not lost, f"{len(lost)} acknowledged writes are lost: {sorted(lost)[:5]}"
        twice = [title for title, times in stored.items() if times > 1]
        assert not twice, f"{len(twice)} writes are there twice: {sorted(twice)[:5]}"

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._write())
        except BaseException as error:  # noqa: BLE001 - the thread that waits tells it
            self._failure = error
            with self._news:
                self._news.notify_all()

    async def _write(self) -> None:
        async with AsyncExitStack() as stack:
            database = Database(service_settings(self._database_url))
            accounts = [
                await make_account(database, self._base_urls[0]) for _ in range(self._count)
            ]
            await database.close()
            async with asyncio.TaskGroup() as group:
                for number, account in enumerate(accounts):
                    await account.client.aclose()
                    clients = [
                        await stack.enter_async_context(_client(account, url))
                        for url in self._base_urls
                    ]
                    group.create_task(self._write_on(number, clients))

    async def _write_on(self, number: int, clients: list[httpx.AsyncClient]) -> None:
        turn = number
        written = 0
        key = uuid4().hex
        while not self._ending.is_set():
            client = clients[turn % len(clients)]
            title = f"{self._name}-{number}-{written}"
            created = await self._create(client, title, key if written % 2 else None)
            if created:
                self._note(title)
                written += 1
                key = uuid4().hex
            if await self._ask(client, "GET", "/api/v1/tasks") == 200 and created:
                continue
            turn += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await self._ending.wait()

    async def _create(self, client: httpx.AsyncClient, title: str, key: str | None) -> bool:
        """Create a task in one of the two ways that are safe to repeat."""
        task = {"title": title}
        if key is not None:
            headers = {"Idempotency-Key": key}
            status = await self._ask(client, "POST", "/api/v1/tasks", json=task, headers=headers)
        else:
            status = await self._ask(client, "PUT", f"/api/v1/tasks/external/{title}", json=task)
        return status in {200, 201}

    async def _ask(self, client: httpx.AsyncClient, method: str, path: str, **options: Any) -> int:
        asked_at = time.monotonic()
        request = object()
        self._under_way[request] = asked_at
        status, code, retry_after = NO_ANSWER, "", ""
        try:
            response = await client.request(method, path, **options)
        except httpx.TransportError as error:
            code = type(error).__name__
        else:
            status = response.status_code
            retry_after = response.headers.get("Retry-After", "")
            code = "" if response.is_success else response.json().get("code", "")
        seconds = time.monotonic() - asked_at
        with self._news:
            del self._under_way[request]
            self.answers.append(Answer(asked_at, seconds, status, code, retry_after, method))
            self._news.notify_all()
        return status

    def _note(self, title: str) -> None:
        with self._news:
            self.acknowledged.add(title)
            self._news.notify_all()


def _client(account: Account, base_url: str) -> httpx.AsyncClient:
    return http_client(base_url, headers=dict(account.client.headers))
