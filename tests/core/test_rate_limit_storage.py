"""Limits that are counted in Redis: what holds while it fails, says nothing, or is away."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import limits
import pytest
import structlog
import time_machine

from app.core import rate_limits
from app.core.rate_limits import REDIS_PAUSE_SECONDS, MemoryStorage, RateLimiter
from tests.support import until

LIMIT = limits.parse("2/minute")
LimiterOn = Callable[[MemoryStorage], RateLimiter]


class Clock:
    """What the limiter takes for the time, which passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limits, "time", clock)
    return clock


@pytest.fixture
def limiter_on(monkeypatch: pytest.MonkeyPatch) -> LimiterOn:
    """Makes a limiter for which this storage is its Redis."""

    def make(storage: MemoryStorage) -> RateLimiter:
        limiter = RateLimiter(redis_url=None)
        monkeypatch.setattr(limiter, "_redis", storage)
        return limiter

    return make


class Away(MemoryStorage):
    """A Redis that cannot be reached unless it `is_back`, and knows how often it was tried."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0
        self.is_back = False

    async def incr(self, *arguments: Any, **options: Any) -> int:
        self.tries += 1
        if not self.is_back:
            raise ConnectionRefusedError
        return await super().incr(*arguments, **options)


async def test_a_storage_that_is_away_is_tried_by_one_request_after_each_pause(
    limiter_on: LimiterOn, clock: Clock
) -> None:
    storage = Away()
    limiter = limiter_on(storage)
    for tries in (1, 2, 3):
        for _ in range(3):
            await limiter.hit(LIMIT, "x")
            assert storage.tries == tries
        clock.now += REDIS_PAUSE_SECONDS - 0.5
        await limiter.hit(LIMIT, "x")
        assert storage.tries == tries
        clock.now += 0.5
    assert (await limiter.look(LIMIT, "x")).used == 12

    storage.is_back = True
    assert (await limiter.hit(LIMIT, "x")).used == 1
    assert (await limiter.look(LIMIT, "x")).used == 1


class Slow(MemoryStorage):
    """A Redis that takes its time over what it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def incr(self, *arguments: Any, **options: Any) -> int:
        self.asked += 1
        await self.may_answer.wait()
        return await super().incr(*arguments, **options)


async def test_while_one_request_finds_out_whether_the_storage_is_back_no_other_waits_for_it(
    limiter_on: LimiterOn, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = limiter_on(Away())
    assert (await limiter.hit(LIMIT, "x")).used == 1
    storage = Slow()
    monkeypatch.setattr(limiter, "_redis", storage)
    clock.now += REDIS_PAUSE_SECONDS
    asking = asyncio.create_task(limiter.hit(LIMIT, "x"))
    other = asyncio.create_task(limiter.hit(LIMIT, "x"))
    await until(lambda: other.done() or storage.asked > 1)

    assert storage.asked == 1
    assert not asking.done()
    assert (await other).used == 2
    storage.may_answer.set()
    assert (await asking).used == 1


async def test_a_redis_that_accepts_and_says_nothing_keeps_no_request_waiting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        limiter = RateLimiter(redis_url=f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        with structlog.testing.capture_logs() as lines:
            async with asyncio.timeout(5):
                assert (await limiter.look(LIMIT, "x")).remaining == 2
                assert (await limiter.hit(LIMIT, "x")).remaining == 1
        await limiter.close()
    assert [line["event"] for line in lines] == ["rate limit storage unavailable"]


class Unwritable(MemoryStorage):
    """A Redis that answers what it is asked and takes nothing, as a replica does."""

    async def incr(self, *_: object, **__: object) -> int:
        raise OSError


async def test_a_storage_that_takes_no_counts_does_not_forget_those_of_this_process(
    limiter_on: LimiterOn, clock: Clock
) -> None:
    limiter = limiter_on(Unwritable())
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            await limiter.hit(LIMIT, "x")
        clock.now += REDIS_PAUSE_SECONDS
        assert (await limiter.look(LIMIT, "x")).remaining == 0
        assert (await limiter.hit(LIMIT, "x")).used == 3
        assert (await limiter.look(LIMIT, "x")).remaining == 0
    assert [line["event"] for line in lines] == ["rate limit storage unavailable"]


class JustEnded(MemoryStorage):
    """A Redis whose window ends between its two answers: the count, and until when it holds."""

    async def get_expiry(self, *_: object) -> float:
        return time.time() - 0.5


async def test_nobody_is_told_to_come_back_after_no_time_at_all(limiter_on: LimiterOn) -> None:
    limiter = limiter_on(JustEnded())
    assert (await limiter.hit(LIMIT, "x")).reset == 1
    assert (await limiter.look(LIMIT, "x")).reset == 1


async def test_who_comes_back_after_the_seconds_told_finds_a_new_window() -> None:
    limiter = RateLimiter(redis_url=None)
    with time_machine.travel(0, tick=False) as clock:
        await limiter.hit(LIMIT, "x")
        clock.shift(58.4)
        told = (await limiter.look(LIMIT, "x")).reset
        clock.shift(told)
        assert told == 2
        assert (await limiter.look(LIMIT, "x")).remaining == 2
