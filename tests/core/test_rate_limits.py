"""Limits: who is told what, and what counts against whom."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import limits
import pytest
import structlog
import time_machine

from app.core.rate_limits import MemoryStorage, RateLimiter, address_key, client_address
from app.core.security import PasswordHasher
from app.core.settings import Settings
from app.main import create_app
from tests.conftest import NewAccount
from tests.support import (
    CHEAP_HASH,
    PASSWORD,
    Account,
    assert_error,
    http_client,
    served,
    service_settings,
    statements_of,
)

ServiceWith = Callable[..., str]


@pytest.fixture
def service_with(settings: Settings) -> Iterator[ServiceWith]:
    """Starts a service on the shared database with settings of its own; gives its URL."""
    with ExitStack() as stack:

        def start(**overrides: Any) -> str:
            own = service_settings(settings.required_database_url, **overrides)
            return stack.enter_context(served(create_app(own)))

        yield start


@asynccontextmanager
async def caller(
    url: str, account: Account | None = None, address: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service behind a proxy on loopback, from `address`."""
    headers = {"Authorization": f"Bearer {account.token}"} if account else {}
    if address is not None:
        headers["X-Forwarded-For"] = address
    async with http_client(url, headers) as client:
        yield client


async def log_in(client: httpx.AsyncClient, name: str, password: str) -> httpx.Response:
    form = {"grant_type": "password", "username": name, "password": password}
    return await client.post("/api/v1/auth/token", data=form)


def left(response: httpx.Response) -> dict[str, int]:
    """What the `RateLimit` header says is left, by policy."""
    return {
        name: int(remaining)
        for name, remaining in re.findall(
            r'"([a-z-]+)";r=(\d+);t=\d+', response.headers["RateLimit"]
        )
    }


async def test_every_authenticated_answer_tells_what_is_left(alice: Account) -> None:
    first = await alice.client.get("/api/v1/tasks")
    second = await alice.client.get("/api/v1/tasks/0")

    assert first.headers["RateLimit-Policy"] == '"api";q=6000;w=60'
    assert left(second)["api"] == left(first)["api"] - 1
    assert second.status_code == 404


async def test_revocations_which_need_no_credential_are_limited_by_address(
    service_with: ServiceWith,
) -> None:
    url = service_with(rate_limit_api="1/minute", trusted_proxies="127.0.0.1")
    form = {"token": "unknown"}
    async with caller(url, address="192.0.2.1") as here, caller(url, address="192.0.2.2") as there:
        assert (await here.post("/api/v1/auth/revoke", data=form)).status_code == 200
        assert_error(await here.post("/api/v1/auth/revoke", data=form), 429, "rate_limited")
        assert (await there.post("/api/v1/auth/revoke", data=form)).status_code == 200


async def test_an_anonymous_answer_tells_of_no_limit(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/api/v1/tasks"):
        response = await client.get(path)
        assert not {"ratelimit", "ratelimit-policy"} & response.headers.keys()


async def test_the_api_limit_holds_per_credential(
    service_with: ServiceWith, alice: Account, bob: Account
) -> None:
    url = service_with(rate_limit_api="3/minute")
    async with caller(url, alice) as client:
        for remaining in (2, 1, 0):
            response = await client.get("/api/v1/tasks")
            assert response.status_code == 200
            assert left(response) == {"api": remaining}
        refused = await client.get("/api/v1/tasks")
    assert_error(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert left(refused) == {"api": 0}

    async with caller(url, bob) as client:
        assert (await client.get("/api/v1/tasks")).status_code == 200


async def test_a_refused_write_writes_nothing(service_with: ServiceWith, alice: Account) -> None:
    url = service_with(rate_limit_api="1/minute")
    async with caller(url, alice) as client:
        assert (await client.post("/api/v1/tasks", json={"title": "First"})).status_code == 201
        refused = await client.post("/api/v1/tasks", json={"title": "Second"})
    assert_error(refused, 429, "rate_limited")

    tasks = (await alice.client.get("/api/v1/tasks")).json()["data"]["tasks"]
    assert [task["title"] for task in tasks] == ["First"]


async def test_registrations_are_limited_by_address(service_with: ServiceWith) -> None:
    url = service_with(rate_limit_registration="2/hour", trusted_proxies="127.0.0.1")

    async def register(address: str, name: str) -> httpx.Response:
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        async with caller(url, address=address) as client:
            return await client.post("/api/v1/users", json=body)

    mark = str(time.time_ns())
    for number in range(2):
        response = await register("192.0.2.1", f"a{number}-{mark}")
        assert response.status_code == 201
        assert left(response) == {"registration": 1 - number}
    assert_error(await register("192.0.2.1", f"a3-{mark}"), 429, "rate_limited")
    assert (await register("192.0.2.2", f"a3-{mark}")).status_code == 201


async def test_a_registration_that_is_rolled_back_counts_too(service_with: ServiceWith) -> None:
    url = service_with(rate_limit_registration="3/hour")
    name = f"taken-{time.time_ns()}"
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    async with caller(url) as client:
        responses = [await client.post("/api/v1/users", json=body) for _ in range(4)]
    assert [response.status_code for response in responses] == [201, 409, 409, 429]


async def test_only_wrong_logins_count_and_over_the_limit_the_right_password_is_refused_too(
    service_with: ServiceWith, new_account: NewAccount
) -> None:
    url = service_with(
        rate_limit_login="3/minute",
        rate_limit_login_address="100/minute",
        trusted_proxies="127.0.0.1",
    )
    account = await new_account(password_hash=CHEAP_HASH)
    async with caller(url, address="192.0.2.1") as here:
        for _ in range(5):
            assert (await log_in(here, account.username, PASSWORD)).status_code == 200
        for remaining in (2, 1, 0):
            wrong = await log_in(here, account.username.upper(), "wrong")
            assert wrong.json()["error"] == "invalid_grant"
            assert left(wrong) == {"login": remaining, "login-address": 97 + remaining}
        for password in ("wrong", PASSWORD):
            refused = await log_in(here, account.username, password)
            assert_error(refused, 429, "rate_limited")
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        other = await log_in(here, "another-name", "wrong")
        assert other.json()["error"] == "invalid_grant"
    async with caller(url, address="192.0.2.2") as elsewhere:
        assert (await log_in(elsewhere, account.username, PASSWORD)).status_code == 200


async def test_one_address_cannot_try_one_password_on_all_accounts(
    service_with: ServiceWith, new_account: NewAccount
) -> None:
    url = service_with(rate_limit_login_address="3/minute")
    account = await new_account(password_hash=CHEAP_HASH)
    async with caller(url) as client:
        for number in range(3):
            assert (await log_in(client, f"nobody-{number}", "wrong")).status_code == 400
        assert_error(await log_in(client, account.username, PASSWORD), 429, "rate_limited")


async def test_of_many_guesses_at_once_only_so_many_learn_anything(
    service_with: ServiceWith, new_account: NewAccount
) -> None:
    url = service_with(rate_limit_login="3/minute")
    account = await new_account(password_hash=CHEAP_HASH)
    async with caller(url) as client:
        responses = await asyncio.gather(
            *(log_in(client, account.username, f"wrong {number}") for number in range(8)),
        )
        last = await log_in(client, account.username, PASSWORD)
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [400] * 3 + [429] * 5
    assert_error(last, 429, "rate_limited")


async def test_a_right_guess_that_wrong_ones_overtake_is_not_let_in(
    service_with: ServiceWith, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = service_with(rate_limit_login="3/minute")
    account = await new_account(password_hash=CHEAP_HASH)
    verify = PasswordHasher.verify
    asked, overtaken = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def verify_later(self: PasswordHasher, password: str, stored: str | None) -> Any:
        if password == PASSWORD:
            # The service has a loop of its own.
            loop.call_soon_threadsafe(asked.set)
            done = asyncio.run_coroutine_threadsafe(overtaken.wait(), loop)
            await asyncio.wrap_future(done)
        return await verify(self, password, stored)

    monkeypatch.setattr(PasswordHasher, "verify", verify_later)
    async with caller(url) as client:
        right = asyncio.create_task(log_in(client, account.username, PASSWORD))
        await asked.wait()
        for number in range(3):
            assert (await log_in(client, account.username, f"wrong {number}")).status_code == 400
        overtaken.set()
        assert_error(await right, 429, "rate_limited")


async def test_a_guess_that_its_client_does_not_wait_for_counts(
    service_with: ServiceWith, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = service_with(rate_limit_login="1/minute")
    account = await new_account(password_hash=CHEAP_HASH)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def verify_without_end(*_: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        await asyncio.Event().wait()

    async with caller(url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(PasswordHasher, "verify", verify_without_end)
            guess = asyncio.create_task(log_in(client, account.username, "wrong"))
            await asked.wait()
            guess.cancel()
            await asyncio.wait([guess])
        async with asyncio.timeout(10):
            # A right password takes nothing from the limit.
            while (answer := await log_in(client, account.username, PASSWORD)).is_success:
                pass
    assert_error(answer, 429, "rate_limited")


@pytest.mark.parametrize(
    ("path", "field"),
    [("/api/v1/users/me/password", "current_password"), ("/api/v1/users/me/close", "password")],
)
async def test_a_wrong_current_password_is_limited_like_a_login(
    service_with: ServiceWith, new_account: NewAccount, path: str, field: str
) -> None:
    url = service_with(rate_limit_login="2/minute")
    account = await new_account(password_hash=CHEAP_HASH)
    extra = {} if field == "password" else {"new_password": "another horse"}
    async with caller(url, account) as client:
        for _ in range(2):
            response = await client.post(path, json={field: "wrong", **extra})
            assert_error(response, 400, "validation_failed", fields={f"body.{field}": "incorrect"})
        assert_error(await client.post(path, json={field: PASSWORD, **extra}), 429, "rate_limited")
        assert_error(await log_in(client, account.username, PASSWORD), 429, "rate_limited")


async def test_over_the_limit_no_password_is_hashed(
    service_with: ServiceWith, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = service_with(rate_limit_login="1/minute")
    account = await new_account(password_hash=CHEAP_HASH)
    verify = PasswordHasher.verify
    verified: list[str] = []

    async def verify_noted(self: PasswordHasher, password: str, stored: str | None) -> Any:
        verified.append(password)
        return await verify(self, password, stored)

    monkeypatch.setattr(PasswordHasher, "verify", verify_noted)
    async with caller(url, account) as client:
        assert (await log_in(client, account.username, "wrong")).status_code == 400
        refused = [
            await log_in(client, account.username, "another"),
            await client.post("/api/v1/users/me/close", json={"password": "another"}),
        ]
    for response in refused:
        assert_error(response, 429, "rate_limited")
    assert verified == ["wrong"]


async def test_an_empty_limit_is_none(service_with: ServiceWith, alice: Account) -> None:
    url = service_with(rate_limit_api="")
    async with caller(url, alice) as client:
        assert "RateLimit" not in (await client.get("/api/v1/tasks")).headers


async def test_a_forged_forwarded_address_buys_no_further_guesses(
    service_with: ServiceWith, new_account: NewAccount
) -> None:
    account = await new_account(password_hash=CHEAP_HASH)
    for proxies in ("", "198.51.100.0/24"):
        url = service_with(rate_limit_login="2/minute", trusted_proxies=proxies)
        statuses = []
        for number in range(3):
            async with caller(url, address=f"192.0.2.{number}") as client:
                response = await log_in(client, account.username, "wrong")
                statuses.append(response.status_code)
        assert statuses == [400, 400, 429]


async def test_what_a_client_puts_before_the_proxys_own_entry_is_ignored(
    service_with: ServiceWith,
) -> None:
    url = service_with(rate_limit_login="2/minute", trusted_proxies="127.0.0.1, 10.0.0.0/8")
    statuses = []
    for number in range(3):
        forwarded = f"192.0.2.{number}, 203.0.113.7, 10.1.2.3"
        async with caller(url, address=forwarded) as client:
            statuses.append((await log_in(client, "nobody", "wrong")).status_code)
    assert statuses == [400, 400, 429]


@pytest.mark.parametrize(
    ("host", "address", "key"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("not an address", "unknown", "unknown"),
    ],
)
def test_addresses_count_as_what_one_customer_has(host: str, address: str, key: str) -> None:
    scope = {"type": "http", "client": (host, 1)}
    assert client_address(scope) == address
    assert address_key(scope) == key


async def test_a_window_begins_with_its_first_hit_and_starts_anew_when_it_ends() -> None:
    limiter = RateLimiter(redis_url=None)
    limit = limits.parse("2/minute")
    with time_machine.travel(0, tick=False) as clock:
        assert (await limiter.hit(limit, "x")).remaining == 1
        clock.shift(59)
        third = [await limiter.hit(limit, "x") for _ in range(2)][-1]
        assert (third.used, third.remaining, third.reset) == (3, 0, 1)
        clock.shift(1)
        assert (await limiter.look(limit, "x")).remaining == 2
        assert (await limiter.hit(limit, "x")).reset == 60


async def test_the_counters_of_ended_windows_are_forgotten() -> None:
    storage = MemoryStorage()
    with time_machine.travel(0, tick=False) as clock:
        for number in range(1000):
            await storage.incr(str(number), 60)
        clock.shift(61)
        await storage.incr("last", 60)
        assert list(storage._windows) == ["last"]  # noqa: SLF001 - nothing else tells it


async def test_behind_a_trusted_proxy_seen_as_a_mapped_address_clients_count_apart(
    settings: Settings,
) -> None:
    own = service_settings(settings.required_database_url, trusted_proxies="127.0.0.0/8")
    app = create_app(own)
    transport = httpx.ASGITransport(app, client=("::ffff:127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with structlog.testing.capture_logs(
            processors=[structlog.contextvars.merge_contextvars]
        ) as lines:
            await client.get("/health", headers={"X-Forwarded-For": "192.0.2.9"})
    assert [line["address"] for line in lines] == ["192.0.2.9"]


async def test_a_request_over_the_limit_costs_no_statement(
    settings: Settings, alice: Account
) -> None:
    app = create_app(service_settings(settings.required_database_url, rate_limit_api="1/minute"))
    statements = statements_of(app)

    with served(app) as url:
        async with caller(url, alice) as client:
            assert (await client.get("/api/v1/tasks")).status_code == 200
            statements.clear()
            assert_error(await client.get("/api/v1/tasks"), 429, "rate_limited")
    assert statements == []
