"""GET /api/v1/tasks/export: which tasks, in what file, and what breaks it off."""

import asyncio
import csv
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.db.session import Database
from app.main import create_app
from app.tasks.transfer.exporting import TASKS_AT_ONCE, all_tasks_of, in_format, walk
from app.tasks.transfer.formats import FORMATS, ExportFormat
from tests.conftest import NewAccount, NewDatabase
from tests.support import Account, assert_error, make_account, run_sql, served, service_settings

PIECE = 64 * 1024


async def exported(account: Account, query: str = "") -> httpx.Response:
    response = await account.client.get(f"/api/v1/tasks/export{query}")
    assert response.status_code == 200, response.text
    return response


def csv_rows(response: httpx.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"), newline="")))


async def add_tasks(
    database: Database, account: Account, number: int, *, size: int = 0
) -> list[int]:
    """So many tasks with metadata of this size, straight into the database."""
    statement = text(
        "INSERT INTO tasks (owner_id, title, title_key, description, status, priority, metadata)"
        " SELECT :owner_id, 'Task ' || n, 'task ' || n, '', 'pending', 'low',"
        " jsonb_build_object('x', repeat('x', :size)) FROM generate_series(1, :number) n"
        " RETURNING id"
    )
    async with database.session() as session:
        values = {"owner_id": account.id, "number": number, "size": size}
        return list(await session.scalars(statement, values))


async def end_credential(database: Database, account: Account) -> None:
    async with database.session() as session:
        await session.execute(
            text("UPDATE credentials SET revoked_at = now() WHERE id = :id"),
            {"id": account.credential_id},
        )


async def read_while(account: Account, act: Callable[[], Awaitable[None]]) -> bytes:
    """What of an export arrives when something happens after its first piece, and it breaks."""
    received = b""
    try:
        async with account.client.stream("GET", "/api/v1/tasks/export") as response:
            async for piece in response.aiter_raw(PIECE):
                if not received:
                    await act()
                received += piece
    except httpx.RemoteProtocolError:
        return received
    raise AssertionError("the export came to its end")


@pytest.mark.parametrize(
    ("query", "media_type", "name"),
    [
        ("", "application/json", "tasks.json"),
        ("?format=json", "application/json", "tasks.json"),
        ("?format=csv", "text/csv; charset=utf-8; header=present", "tasks.csv"),
        ("?format=ics", "text/calendar; charset=utf-8", "tasks.ics"),
    ],
)
async def test_an_export_is_a_file_with_a_name_and_its_media_type(
    alice: Account, query: str, media_type: str, name: str
) -> None:
    await alice.create_task()
    response = await exported(alice, query)

    assert response.headers["Content-Type"] == media_type
    assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert response.headers["Cache-Control"] == "no-store"
    head = await alice.client.head(f"/api/v1/tasks/export{query}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == media_type


async def test_json_holds_the_tasks_as_the_api_shows_them_oldest_first(alice: Account) -> None:
    tasks = [
        await alice.create_task(title="First", tags=["a"], due_on="2026-12-01"),
        await alice.create_task(title="Second", status="completed", metadata={"a": [1, None]}),
        await alice.create_task(title="Third", due_at="9999-12-31T23:59:59.999999Z"),
    ]

    assert (await exported(alice)).json() == tasks


async def test_an_empty_account_gives_a_complete_file_in_every_format(alice: Account) -> None:
    assert (await exported(alice)).json() == []
    sheet = (await exported(alice, "?format=csv")).content
    assert sheet.startswith("\ufeffid,title,".encode())
    assert sheet.count(b"\r\n") == 1
    assert sheet.endswith(b"updated_at\r\n")
    calendar = (await exported(alice, "?format=ics")).content
    assert calendar.startswith(b"BEGIN:VCALENDAR\r\n")
    assert calendar.endswith(b"\r\nEND:VCALENDAR\r\n")


async def test_the_filters_are_those_of_the_list(alice: Account) -> None:
    await alice.create_task(title="Water", status="pending", priority="high", tags=["garden"])
    await alice.create_task(title="Prune", status="completed", priority="high", tags=["garden"])
    await alice.create_task(title="Write", status="pending", due_on="2020-01-01")

    for query in (
        "status=pending",
        "status=pending&status=completed&priority=high",
        "tag=garden&q=wat",
        "overdue=true",
        "created_after=2999-01-01T00:00:00Z",
    ):
        listed = (await alice.client.get(f"/api/v1/tasks?{query}&sort=created_at")).json()
        assert (await exported(alice, f"?{query}")).json() == listed["data"]["tasks"], query
        rows = csv_rows(await exported(alice, f"?format=csv&{query}"))
        assert [row["id"] for row in rows] == [str(t["id"]) for t in listed["data"]["tasks"]]


async def test_neither_anothers_tasks_nor_those_in_the_trash_are_in_it(
    alice: Account, bob: Account
) -> None:
    kept = await alice.create_task()
    trashed = await alice.create_task()
    await alice.client.delete(f"/api/v1/tasks/{trashed['id']}")
    await bob.create_task()

    for form in ("json", "csv", "ics"):
        assert (await exported(alice, f"?format={form}")).text.count("Water") == 1
    assert (await exported(alice)).json() == [kept]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("format=xml", {"query.format": "invalid"}),
        ("format=", {"query.format": "invalid"}),
        ("format=JSON", {"query.format": "invalid"}),
        ("format=json&format=csv", {"query.format": "duplicate"}),
        ("page=1", {"query.page": "unknown"}),
        ("per_page=5&cursor=x", {"query.per_page": "unknown", "query.cursor": "unknown"}),
        ("sort=title", {"query.sort": "unknown"}),
        ("status=done&format=csv", {"query.status": "invalid"}),
        ("foo=1", {"query.foo": "unknown"}),
    ],
)
async def test_a_parameter_that_is_not_valid_is_named_in_the_envelope(
    alice: Account, query: str, fields: dict[str, str]
) -> None:
    response = await alice.client.get(f"/api/v1/tasks/export?{query}")

    assert_error(response, 400, "validation_failed", fields=fields)


async def test_exporting_needs_a_live_credential_with_the_scope_to_read(
    alice: Account, new_account: NewAccount, client: httpx.AsyncClient, database: Database
) -> None:
    path = "/api/v1/tasks/export"
    assert_error(await client.get(path), 401, "unauthenticated")
    writer = await new_account(scopes=["tasks:write"])
    assert_error(await writer.client.get(path), 403, "insufficient_scope")
    # The worker remembers this one, with tasks and without.
    await exported(alice)
    await end_credential(database, alice)
    assert_error(await alice.client.get(path), 401, "unauthenticated")


async def test_tasks_that_stand_throughout_are_there_once_while_others_come_and_go(
    alice: Account, database: Database
) -> None:
    standing = await add_tasks(database, alice, 3 * TASKS_AT_ONCE, size=15_000)
    passing = await add_tasks(database, alice, 20)
    seen: list[int] = []
    async with alice.client.stream("GET", "/api/v1/tasks/export") as response:
        lines = response.aiter_lines()
        async for line in lines:
            if line.startswith("{"):
                seen.append(json.loads(line.rstrip(","))["id"])
            if len(seen) == 10:
                # No order by which the export could walk may lose or repeat a task by this.
                for task_id in [*passing[:10], *standing[:3], *standing[-3:]]:
                    response_ = await (
                        alice.client.delete(f"/api/v1/tasks/{task_id}")
                        if task_id in passing
                        else alice.client.patch(
                            f"/api/v1/tasks/{task_id}", json={"priority": "high", "title": "New"}
                        )
                    )
                    assert response_.status_code == 200
                await alice.create_task()

    assert [task_id for task_id in seen if task_id in set(standing)] == standing
    assert len(set(seen)) == len(seen)


async def test_a_credential_revoked_meanwhile_breaks_the_export_off(
    alice: Account,
    database: Database,
    log_lines: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # More than goes into the buffers between the service and a client that does not read.
    await add_tasks(database, alice, 6 * TASKS_AT_ONCE, size=15_000)
    received = await read_while(alice, lambda: end_credential(database, alice))

    assert received.startswith(b"[\n{")
    assert not received.endswith(b"]\n")
    warnings = [line for line in log_lines if line["event"] == "answer broken off"]
    assert [line["code"] for line in warnings] == ["unauthenticated"]
    assert not [line for line in log_lines if line["event"] == "unhandled error"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_database_that_goes_away_meanwhile_breaks_the_export_off(
    new_database: NewDatabase, server_url: str, log_lines: list[dict[str, Any]]
) -> None:
    url = new_database()
    settings = service_settings(url)
    database = Database(settings)

    async def go_away() -> None:
        await database.close()
        run_sql(
            server_url,
            f'ALTER DATABASE "{make_url(url).database}" ALLOW_CONNECTIONS false',
            "SELECT pg_terminate_backend(pid) FROM pg_database JOIN pg_stat_activity "
            " USING (datname) WHERE NOT datallowconn",
        )

    with served(create_app(settings)) as base_url:
        account = await make_account(database, base_url)
        await add_tasks(database, account, 6 * TASKS_AT_ONCE, size=15_000)
        received = await read_while(account, go_away)
        refused = await account.client.get("/api/v1/tasks/export")
        await account.client.aclose()

    assert received.startswith(b"[\n{")
    assert not received.endswith(b"]\n")
    warnings = [line for line in log_lines if line["event"] == "answer broken off"]
    assert [line["code"] for line in warnings] == ["database_unavailable"]
    # What has not begun can be answered in words.
    assert_error(refused, 503, "database_unavailable")


@pytest.mark.parametrize("name", ExportFormat)
async def test_a_file_that_is_broken_off_does_not_end_as_a_complete_one(
    alice: Account, database: Database, name: ExportFormat
) -> None:
    await add_tasks(database, alice, TASKS_AT_ONCE + 1)
    ends = {"json": b"]\n", "csv": b"\r\n", "ics": b"END:VCALENDAR\r\n"}
    *pieces, last = [
        piece async for piece in in_format(FORMATS[name], walk(database, all_tasks_of(alice.id)))
    ]

    assert len(pieces) == 2
    assert last.endswith(ends[name])
    for number in (1, 2):
        assert not b"".join(pieces[:number]).endswith(ends[name])
    assert b"".join([*pieces, last]) == (await exported(alice, f"?format={name}")).content


async def test_clients_that_read_slowly_or_vanish_hold_no_connection(
    new_database: NewDatabase,
) -> None:
    settings = service_settings(new_database(), database_pool_size=1, database_pool_timeout=5)
    database = Database(settings)
    try:
        with served(create_app(settings)) as base_url:
            account = await make_account(database, base_url)
            await add_tasks(database, account, 4 * TASKS_AT_ONCE, size=15_000)
            url = "/api/v1/tasks/export"
            async with account.client.stream("GET", url) as slow:
                assert (await anext(slow.aiter_raw(1))) == b"["
                for _ in range(5):
                    async with account.client.stream("GET", url) as vanishing:
                        await anext(vanishing.aiter_raw(1))
                # The pool has one connection, which all of these have had.
                read = await account.client.get("/api/v1/tasks?per_page=1")
                assert read.status_code == 200
            complete = await exported(account)
            assert len(complete.json()) == 4 * TASKS_AT_ONCE
            await account.client.aclose()
    finally:
        await database.close()


async def test_an_export_of_a_busy_database_is_refused_before_its_first_byte(
    new_database: NewDatabase,
) -> None:
    settings = service_settings(new_database(), database_pool_size=1, database_pool_timeout=0.1)
    database = Database(settings)
    app = create_app(settings)
    try:
        with served(app) as base_url:
            account = await make_account(database, base_url)
            await exported(account)
            async with database.transaction() as session:
                await session.execute(text("LOCK TABLE tasks"))
                waiting = asyncio.create_task(account.client.get("/api/v1/tasks"))
                waits = text(
                    "SELECT count(*) FROM pg_sleep(0.02), pg_locks"
                    " WHERE relation = 'tasks'::regclass AND NOT granted"
                )
                while not await session.scalar(waits):
                    pass
                busy = await account.client.get("/api/v1/tasks/export?format=csv")
            assert_error(busy, 503, "overloaded")
            assert (await waiting).status_code == 200
            await account.client.aclose()
    finally:
        await database.close()


def test_the_document_describes_the_three_files() -> None:
    document = create_app(service_settings("postgresql://unused/unused")).openapi()
    operation = document["paths"]["/api/v1/tasks/export"]["get"]
    ok = operation["responses"]["200"]

    assert operation["operationId"] == "export_tasks"
    assert set(ok["content"]) == {"application/json", "text/csv", "text/calendar"}
    assert ok["content"]["application/json"]["schema"]["items"] == {
        "$ref": "#/components/schemas/TaskRead"
    }
    assert "Content-Disposition" in ok["headers"]
