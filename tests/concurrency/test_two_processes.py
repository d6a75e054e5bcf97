"""Several server processes on one database, and on one Redis."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.core import rate_limits
from app.main import create_app
from tests.conftest import NewDatabase
from tests.proxies import Redis
from tests.support import blocking_client, running_service, served, service_settings

PASSWORD = "zebra-crossing-at-noon-1"


def register(client: httpx.Client, name: str) -> None:
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    assert client.post("/api/v1/users", json=body).status_code == 201


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    form = {"grant_type": "password", "username": name, "password": password}
    return client.post("/api/v1/auth/token", data=form)


@contextlib.contextmanager
def clients(*base_urls: str) -> Iterator[list[httpx.Client]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(blocking_client(base_url)) for base_url in base_urls]


@pytest.mark.long
def test_what_is_revoked_on_one_process_is_refused_by_the_other_on_the_very_next_request(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    with (
        served(create_app(service_settings(url))) as this_process,
        running_service(url) as other_process,
        clients(this_process, other_process.base_url) as (here, there),
    ):
        register(here, "grace")
        here.headers["Authorization"] = f"Bearer {log_in(here, 'grace').json()['access_token']}"
        body = {"name": "machine", "scopes": ["tasks:read", "tasks:write"]}
        for _ in range(5):
            key = here.post("/api/v1/api-keys", json=body).json()["data"]
            there.headers["Authorization"] = f"Bearer {key['key']}"
            # The other process remembers the key.
            for _ in range(2):
                assert there.post("/api/v1/tasks", json={"title": "x"}).status_code == 201
            assert here.delete(f"/api/v1/api-keys/{key['id']}").status_code == 200
            assert there.post("/api/v1/tasks", json={"title": "x"}).status_code == 401
        assert here.get("/api/v1/tasks").json()["data"]["total"] == 10


@pytest.mark.long
@pytest.mark.redis
def test_two_processes_with_a_redis_share_one_budget(
    new_database: NewDatabase, redis: Redis, log_lines: list[dict[str, Any]]
) -> None:
    url = new_database()
    limits = {"redis_url": redis.url, "rate_limit_login": "4/minute", "rate_limit_api": "5/minute"}
    environment = {name.upper(): value for name, value in limits.items()}
    with (
        served(create_app(service_settings(url, **limits))) as this_process,
        running_service(url, **environment) as other_process,
        clients(this_process, other_process.base_url) as (here, there),
    ):
        register(here, "grace")
        token = log_in(here, "grace").json()["access_token"]
        refusals = [log_in(client, "grace", "wrong") for client in (here, there, here, there)]
        assert [refusal.status_code for refusal in refusals] == [400] * 4
        for client in (here, there):
            refused = log_in(client, "grace")
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 60

        headers = {"Authorization": f"Bearer {token}"}
        answers = [client.get("/api/v1/tasks", headers=headers) for client in (here, there) * 3]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[3].headers["RateLimit"].startswith('"api";r=1;t=')
    assert "rate limit storage" not in str(log_lines)
    assert "rate limit storage" not in other_process.output()


@pytest.mark.redis
def test_while_redis_is_away_requests_go_on_and_the_log_says_so(
    new_database: NewDatabase,
    redis: Redis,
    log_lines: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limits, "REDIS_PAUSE_SECONDS", 0.2)
    settings = service_settings(new_database(), redis_url=redis.url, rate_limit_login="2/minute")
    with served(create_app(settings)) as base_url, clients(base_url) as (client,):
        register(client, "grace")
        client.headers["Authorization"] = f"Bearer {log_in(client, 'grace').json()['access_token']}"
        redis.kill()
        for number in range(5):
            assert client.post("/api/v1/tasks", json={"title": str(number)}).status_code == 201
        # This process goes on counting by itself.
        assert [log_in(client, "grace", "wrong").status_code for _ in range(3)] == [400, 400, 429]
        events = [line["event"] for line in log_lines]
        assert events.count("rate limit storage unavailable") == 1
        assert "redis-password" not in str(log_lines)

        redis.start()
        deadline = time.monotonic() + 30
        while "rate limit storage available again" not in str(log_lines):
            assert time.monotonic() < deadline
            assert client.get("/api/v1/tasks").status_code == 200
