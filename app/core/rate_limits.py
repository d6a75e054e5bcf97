"""How often something may be done, counted in this process or, by `REDIS_URL`, across all of them.

The counters live outside the database, so that no rolled-back transaction takes a count back. The
headers are those of the IETF draft "RateLimit header fields for HTTP".
"""

import math
import time
from collections.abc import Awaitable, Callable, Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import structlog
from fastapi import Request
from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from starlette.types import Scope

from app.core.errors import APIError
from app.core.metrics import RATE_LIMITED

# Where the quotas of a request are left for its headers, by the names of their policies.
QUOTAS = "taskflow.quotas"
REDIS_TIMEOUT_SECONDS = 0.25
# A Redis that is away is asked again after this long; until then this process counts by itself.
REDIS_PAUSE_SECONDS = 5
SWEEP_EVERY_SECONDS = 60
# What one customer has at least of IPv6; counting single addresses would limit nobody.
IPV6_BLOCK = 64

Policy = Literal["api", "login", "login-address", "registration"]
REFUSALS = {policy: RATE_LIMITED.labels(policy) for policy in get_args(Policy)}

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

log = structlog.stdlib.get_logger("taskflow.rate_limits")


class RateLimited(APIError):
    status = 429
    code = "rate_limited"
    message = "Too many requests; try again after the seconds in Retry-After"

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__(headers={"Retry-After": str(retry_after)})


class Quota(NamedTuple):
    """What is left of a limit, and the whole seconds until it starts anew."""

    limit: RateLimitItem
    used: int
    reset: int

    @property
    def remaining(self) -> int:
        return max(0, self.limit.amount - self.used)


class MemoryStorage:
    """The counters of this process: per key the count, and when its window ends.

    The storage that comes with `limits` walks through all of its keys at each hit.
    """

    def __init__(self) -> None:
        self._windows: dict[Hashable, tuple[int, float]] = {}
        self._sweep_at = 0.0

    def _window(self, key: Hashable, now: float) -> tuple[int, float]:
        count, end = self._windows.get(key, (0, now))
        return (count, end) if end > now else (0, now)

    async def incr(self, key: Hashable, expiry: int) -> int:
        return self.count(key, expiry, time.time())[0]

    def count(self, key: Hashable, expiry: int, now: float) -> tuple[int, float]:
        """Count one more at a time; returns the new count and when its window ends."""
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_SECONDS
            self._windows = {k: window for k, window in self._windows.items() if window[1] > now}
        count, end = self._window(key, now)
        window = self._windows[key] = (count + 1, end if count else now + expiry)
        return window

    async def get(self, key: Hashable) -> int:
        return self._window(key, time.time())[0]

    async def get_expiry(self, key: Hashable) -> float:
        return self._window(key, time.time())[1]


class RateLimiter:
    """Fixed windows that begin with the first hit, in Redis or in this process.

    While Redis is away this process counts by itself: requests go on, and the log says so once.
    """

    def __init__(self, *, redis_url: str | None) -> None:
        self._memory = MemoryStorage()
        self._pool: ConnectionPool | None = None
        self._redis: RedisStorage | None = None
        self._is_away = False
        self._ask_again_at = 0.0
        if redis_url:
            # It takes a quarter of a second to import, which only those pay who use it.
            from redis import asyncio as redis  # noqa: PLC0415 - see above

            self._pool = redis.ConnectionPool.from_url(
                redis_url,
                socket_timeout=REDIS_TIMEOUT_SECONDS,
                socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            )
            self._redis = RedisStorage(
                "async+redis://",
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix="taskflow",
                connection_pool=self._pool,  # type: ignore[arg-type]  # handed on to redis-py
            )

    def _key(self, limit: RateLimitItem, identifiers: tuple[str, ...]) -> Any:  # noqa: ANN401 - text in Redis
        # In here nobody else counts, and limits do not change.
        return identifiers if self._redis is None else limit.key_for(*identifiers)

    async def hit(self, limit: RateLimitItem, *identifiers: str) -> Quota:
        """Count one more, also beyond the limit."""
        key = self._key(limit, identifiers)
        if self._redis is None:
            return _quota(limit, *self._memory.count(key, limit.get_expiry(), time.time()))

        async def count(storage: MemoryStorage | RedisStorage) -> Quota:
            used = await storage.incr(key, limit.get_expiry())
            return _quota(limit, used, await storage.get_expiry(key))

        # Only one request at a time finds out whether Redis is back, and only by counting: one that
        # reads and does not write would forget what was counted meanwhile.
        asks = not self._is_away
        if self._is_away and time.monotonic() >= self._ask_again_at:
            self._ask_again_at = time.monotonic() + REDIS_PAUSE_SECONDS
            asks = True
        quota = await self._in_redis(count) if asks else None
        if quota is None:
            return await count(self._memory)
        if self._is_away:
            self._is_away = False
            log.warning("rate limit storage available again")
        return quota

    async def look(self, limit: RateLimitItem, *identifiers: str) -> Quota:
        """What is left, without counting."""
        key = self._key(limit, identifiers)

        async def read(storage: MemoryStorage | RedisStorage) -> Quota:
            return _quota(limit, await storage.get(key), await storage.get_expiry(key))

        quota = None if self._is_away else await self._in_redis(read)
        return quota or await read(self._memory)

    async def _in_redis(self, work: Callable[[RedisStorage], Awaitable[Quota]]) -> Quota | None:
        """What `work` gives; None without a Redis, or if it does not do the work."""
        if self._redis is None:
            return None
        try:
            return await work(self._redis)
        except (StorageError, OSError) as error:
            if not self._is_away:
                # The kind alone: a message may hold the address with its password.
                log.warning("rate limit storage unavailable", error=_kind(error))
            self._is_away = True
            self._ask_again_at = time.monotonic() + REDIS_PAUSE_SECONDS
            return None

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()


def _kind(error: StorageError | OSError) -> str:
    return type(error.storage_error if isinstance(error, StorageError) else error).__name__


def _quota(limit: RateLimitItem, used: int, end: float) -> Quota:
    return Quota(limit, used, max(1, math.ceil(end - time.time())))


async def spend(request: Request, policy: Policy, limit: RateLimitItem | None, key: str) -> None:
    """Count a request against `limit` under `key`. Raises `RateLimited` if it is one too many.

    The answer's headers tell what is left; `policy` is the limit's name in them. None never limits.
    """
    if limit is not None:
        quota = await _limiter(request).hit(limit, policy, key)
        _remember(request, policy, quota)
        if quota.used > limit.amount:
            REFUSALS[policy].inc()
            raise RateLimited(quota.reset)


async def ensure_left(
    request: Request, policy: Policy, limit: RateLimitItem | None, key: str
) -> None:
    """Raise `RateLimited` if nothing is left of `limit` under `key`, and count nothing."""
    if limit is not None:
        quota = await _limiter(request).look(limit, policy, key)
        _remember(request, policy, quota)
        if quota.used >= limit.amount:
            REFUSALS[policy].inc()
            raise RateLimited(quota.reset)


def _limiter(request: Request) -> RateLimiter:
    limiter: RateLimiter = request.app.state.rate_limiter
    return limiter


def _remember(request: Request, policy: Policy, quota: Quota) -> None:
    request.scope.setdefault(QUOTAS, {})[policy] = quota


def rate_limit_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit` for the limits that the request has met."""
    quotas: dict[str, Quota] | None = scope.get(QUOTAS)
    if not quotas:
        return []
    policies, states = [], []
    for name, quota in quotas.items():
        policies.append(f'"{name}";q={quota.limit.amount};w={quota.limit.get_expiry()}')
        states.append(f'"{name}";r={quota.remaining};t={quota.reset}')
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    ]


def client_address(scope: Scope) -> str:
    """The client's IP address as the server or a trusted proxy tells it, else `unknown`."""
    return _address((scope.get("client") or ("",))[0])


@lru_cache(maxsize=1024)
def _address(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return "unknown"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    # Behind the percent sign of a zone a client may write what it likes.
    return str(mapped or address).partition("%")[0]


def address_key(scope: Scope) -> str:
    """What limits per address count under: an IPv4 address, or an IPv6 network of 64 bits."""
    address = client_address(scope)
    if ":" in address:
        return str(ip_network((address, IPV6_BLOCK), strict=False))
    return address
