"""GET /metrics of one process."""

import asyncio
import json
import random
import re
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text, update

from app.db.session import Database
from app.main import create_app
from app.tasks.models import Task
from app.tasks.purge import purge
from tests.conftest import NewDatabase
from tests.observability.support import REQUESTS, Samples, requests_of
from tests.support import (
    CHEAP_HASH,
    SECRET_KEY,
    Account,
    assert_error,
    http_client,
    make_account,
    served,
    service_settings,
)

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


async def scrape(client: httpx.AsyncClient) -> Samples:
    response = await client.get("/metrics")
    assert response.status_code == 200, response.text
    return Samples.of(response.text)


async def test_metrics_are_text_for_prometheus_that_needs_no_login(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/metrics")
    head = await client.head("/metrics")

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.text.endswith("\n")
    assert not re.search(r"^\w+_created[ {]", response.text, re.MULTILINE)
    assert (head.status_code, head.content) == (200, b"")
    document = (await client.get("/openapi.json")).json()
    assert "/metrics" not in document["paths"]


async def test_metrics_can_be_switched_off() -> None:
    settings = service_settings(
        "postgresql://nobody:secret@127.0.0.1:1/none", metrics_enabled=False
    )
    with served(create_app(settings)) as base_url:
        async with http_client(base_url) as client:
            response = await client.get("/metrics")

    assert_error(response, 404, "not_found")


async def test_metrics_are_there_while_the_database_is_not() -> None:
    settings = service_settings("postgresql://nobody:secret@127.0.0.1:1/none")
    with served(create_app(settings)) as base_url:
        async with http_client(base_url) as client:
            before = await scrape(client)
            assert (await client.get("/health/ready")).status_code == 503
            added = (await scrape(client)).since(before)

    assert requests_of(added, "GET", "/health/ready", 503) == 1
    assert added.total("db_client_connections", state="used") == 0


async def test_requests_are_counted_by_method_template_and_status(
    alice: Account, client: httpx.AsyncClient
) -> None:
    task = await alice.create_task()
    path = f"/api/v1/tasks/{task['id']}"
    before = await scrape(client)
    found = [await alice.client.get(path) for _ in range(3)]
    await alice.client.head(path)
    refused = await client.get(path)
    added = (await scrape(client)).since(before)

    route = "/api/v1/tasks/{task_id}"
    assert requests_of(added, "GET", route, 200) == 3
    assert requests_of(added, "HEAD", route, 200) == 1
    assert requests_of(added, "GET", route, 401) == 1
    assert added.total(REQUESTS) == 6, "the scrape before is among them"
    labels = {"http_request_method": "GET", "http_route": route}
    body_bytes = added.total("http_server_response_body_bytes_total", **labels)
    assert body_bytes == sum(len(response.content) for response in [*found, refused])
    seconds = added.total("http_server_request_duration_seconds_sum", **labels)
    assert 0 < seconds < 60


async def test_what_clients_invent_makes_no_new_series(
    alice: Account, client: httpx.AsyncClient
) -> None:
    seed = random.Random(7)  # noqa: S311 - no secret
    await client.request("PROPFIND", f"/{uuid4()}")
    await alice.client.get("/api/v1/tasks/1")
    known = set(await scrape(client))
    for _ in range(40):
        name = f"{seed.getrandbits(64):x}"
        await client.request("PROPFIND", f"/{name}", headers={"Host": f"{name}.example"})
        await client.request("LOCK", f"/{name}/{name}", params={name: name})
        await alice.client.get(f"/api/v1/tasks/{seed.getrandbits(40)}")
        await client.get("/api/v1/tasks", headers={"Authorization": f"Bearer {name}"})
    samples = await scrape(client)

    new = {labels for name, labels in set(samples) - known if name == REQUESTS}
    assert {dict(labels)["http_route"] for labels in new} <= {"/api/v1/tasks", "unmatched"}
    assert len(new) <= 4
    assert samples.values_of("http_request_method") <= {
        *("_OTHER", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
    }


async def test_requests_under_way_are_seen(
    alice: Account, client: httpx.AsyncClient, database: Database
) -> None:
    await alice.create_task()
    idle = await scrape(client)
    async with database.transaction() as session:
        # The list waits for this lock, with a connection of the pool.
        await session.execute(text("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE"))
        waiting = asyncio.create_task(alice.client.get("/api/v1/tasks"))
        while (during := await scrape(client)).total("http_server_active_requests") < 2:
            assert not waiting.done()
        used_while_waiting = during.total("db_client_connections", state="used")
        while used_while_waiting == 0:
            used_while_waiting = (await scrape(client)).total("db_client_connections", state="used")
    assert (await waiting).status_code == 200

    assert idle.total("http_server_active_requests") == 1, "the scrape itself"
    assert used_while_waiting == 1
    assert idle.total("db_client_connections", state="used") == 0
    assert idle.total("db_client_connection_max") == 10


async def test_a_full_pool_shows_who_waits_and_who_gave_up(new_database: NewDatabase) -> None:
    settings = service_settings(new_database(), database_pool_size=1, database_pool_timeout=0.5)
    database = Database(settings)
    with served(create_app(settings)) as base_url:
        account = await make_account(database, base_url)
        await account.create_task()
        before = await scrape(account.client)
        async with database.transaction() as session:
            await session.execute(text("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE"))
            first = asyncio.create_task(account.client.get("/api/v1/tasks"))
            second = asyncio.create_task(account.client.get("/api/v1/tasks"))
            pending = "db_client_connection_pending_requests"
            while (await scrape(account.client)).total(pending) == 0:
                assert not first.done() or not second.done()
            done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        statuses = sorted([(await first).status_code, (await second).status_code])
        added = (await scrape(account.client)).since(before)
        await account.client.aclose()
    await database.close()

    assert len(done) == 1
    assert statuses == [200, 503]
    assert added.total("db_client_connection_timeouts_total") == 1
    assert added.total(pending) == 0


async def test_statements_are_counted_by_their_kind(
    alice: Account, client: httpx.AsyncClient
) -> None:
    task = await alice.create_task()
    path = f"/api/v1/tasks/{task['id']}"
    await alice.client.get(path)
    before = await scrape(client)
    for _ in range(3):
        await alice.client.get(path)
    added = (await scrape(client)).since(before)

    name = "db_client_operation_duration_seconds"
    assert added.total(f"{name}_count", db_operation_name="SELECT") == 3
    assert added.total(f"{name}_count") == 3
    assert 0 < added.total(f"{name}_sum", db_operation_name="SELECT") < 30


async def test_transactions_and_large_exports_are_counted_too(
    alice: Account, client: httpx.AsyncClient
) -> None:
    before = await scrape(client)
    body = {"operations": [{"op": "create", "task": {"title": str(n)}} for n in range(30)]}
    assert (await alice.client.post("/api/v1/tasks/batch", json=body)).status_code == 200
    assert (await alice.client.get("/api/v1/tasks/export")).status_code == 200
    added = (await scrape(client)).since(before)

    name = "db_client_operation_duration_seconds_count"
    for kind in ("BEGIN", "COMMIT", "INSERT", "SELECT"):
        assert added.total(name, db_operation_name=kind) >= 1, kind


async def test_credentials_are_counted_by_where_they_were_known_from(
    alice: Account, client: httpx.AsyncClient
) -> None:
    before = await scrape(client)
    for _ in range(3):
        await alice.client.get("/api/v1/tasks")
    await client.get("/api/v1/tasks")
    await client.get("/api/v1/tasks", headers={"Authorization": "Bearer tfu_wrong"})
    added = (await scrape(client)).since(before)

    name = "taskflow_authentications_total"
    assert added.total(name, result="looked_up") == 1
    assert added.total(name, result="remembered") == 2
    assert added.total(name, result="refused") == 2


async def test_logins_are_counted_by_their_outcome(new_database: NewDatabase) -> None:
    settings = service_settings(new_database(), rate_limit_login="1/minute")
    database = Database(settings)
    with served(create_app(settings)) as base_url:
        account = await make_account(database, base_url, password_hash=CHEAP_HASH)
        before = await scrape(account.client)
        assert await account.log_in()
        assert not await account.log_in("wrong")
        assert not await account.log_in("wrong")
        added = (await scrape(account.client)).since(before)
        await account.client.aclose()
    await database.close()

    for event in ("login", "login_failed", "login_limited"):
        assert added.total("taskflow_audit_events_total", event=event) == 1, event
    assert added.total("taskflow_rate_limited_total", limit="login") == 1
    assert added.total("taskflow_rate_limited_total") == 1


async def test_replays_are_counted(alice: Account, client: httpx.AsyncClient) -> None:
    before = await scrape(client)
    for _ in range(3):
        headers = {"Idempotency-Key": "once"}
        await alice.client.post("/api/v1/tasks", json={"title": "Once"}, headers=headers)
    added = (await scrape(client)).since(before)

    assert added.total("taskflow_idempotent_replays_total") == 2


async def test_purged_rows_are_counted(
    new_database: NewDatabase, client: httpx.AsyncClient
) -> None:
    settings = service_settings(new_database())
    database = Database(settings)
    with served(create_app(settings)) as base_url:
        account = await make_account(database, base_url)
        for _ in range(3):
            task = await account.create_task()
            await account.client.delete(f"/api/v1/tasks/{task['id']}")
        await account.client.aclose()
    async with database.session() as session:
        await session.execute(update(Task).values(deleted_at=Task.deleted_at - timedelta(days=99)))
    before = await scrape(client)
    await purge(database, settings)
    added = (await scrape(client)).since(before)
    await database.close()

    assert added.total("taskflow_purged_rows_total", kind="tasks") == 3
    assert added.total("taskflow_purged_rows_total") == 3


async def test_the_build_and_the_process_are_told(client: httpx.AsyncClient) -> None:
    samples = await scrape(client)
    ((_, build),) = (key for key in samples if key[0] == "taskflow_build_info")

    assert {name for name, _ in build} == {"version", "python_version"}
    assert samples[("taskflow_build_info", build)] == 1
    assert samples.total("process_resident_memory_bytes") > 10_000_000
    assert samples.total("process_cpu_seconds_total") > 0


async def test_many_scrapes_at_once_are_all_answered(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))

    assert [answer.status_code for answer in answers] == [200] * 20
    assert all(len(Samples.of(answer.text)) > 50 for answer in answers)


async def test_no_secret_and_no_name_gets_into_the_metrics(
    alice: Account, client: httpx.AsyncClient
) -> None:
    key = (await alice.create_api_key(name="private-name"))["key"]
    task = await alice.create_task(title="private-title", metadata={"private": "value"})
    await client.get(f"/{key}")
    await client.get(f"/api/v1/tasks?token={key}&q=private-query")
    await alice.client.get(f"/api/v1/tasks/{task['id']}?private-parameter=1")
    shown = (await client.get("/metrics")).text

    for secret in (key, alice.token, alice.username, SECRET_KEY, "private", "127.0.0.1"):
        assert json.dumps(secret)[1:-1] not in shown


@pytest.mark.parametrize("path", ["/metrics/", "/metrics?x=1"])
async def test_metrics_have_one_address(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)

    assert response.status_code == (404 if path.endswith("/") else 200)


async def test_the_readme_lists_just_the_metrics_that_there_are(client: httpx.AsyncClient) -> None:
    text = (await client.get("/metrics")).text
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    table = README.split("## Watching it")[1].split("| metric |")[1].split("\n\n")[0]
    first_cells = "".join(line.split("|")[1] for line in table.splitlines()[2:])
    listed = set(re.findall(r"`(\w+)`", first_cells))

    assert listed == {name for name in types if not name.startswith("process_")}
