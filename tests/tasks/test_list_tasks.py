"""GET /api/v1/tasks."""

from typing import Any

import pytest
from sqlalchemy import text

from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from tests.support import Account, assert_error, http_client, served, statements_of


async def listed(account: Account, query: str = "") -> dict[str, Any]:
    response = await account.client.get(f"/api/v1/tasks{query}")
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()["data"]
    return data


async def test_an_empty_list_is_not_searched_for_twice(settings: Settings, alice: Account) -> None:
    app = create_app(settings)
    statements = statements_of(app)
    with served(app) as url:
        async with http_client(url, {"Authorization": f"Bearer {alice.token}"}) as client:
            page = (await client.get("/api/v1/tasks?q=nowhere")).json()["data"]
            assert (page["total"], page["tasks"]) == (0, [])
            statements.clear()
            assert (await client.get("/api/v1/tasks?q=nowhere")).json()["data"]["total"] == 0
    # The list, and whether an ended credential is why it is empty.
    assert statements == ["SELECT", "SELECT"]


async def test_an_empty_account_has_no_tasks_and_no_pages(alice: Account) -> None:
    assert await listed(alice) == {
        "tasks": [],
        "total": 0,
        "page": 1,
        "pages": 0,
        "next_cursor": None,
    }


async def test_the_newest_come_first_and_equal_instants_by_id(
    alice: Account, database: Database
) -> None:
    ids = [(await alice.create_task(title=f"{number}"))["id"] for number in range(6)]
    async with database.session() as session:
        # The third, fourth and fifth were created at the same instant, before all others.
        await session.execute(
            text("UPDATE tasks SET created_at = '2026-01-01' WHERE id = ANY(:ids)"),
            {"ids": ids[2:5]},
        )

    tasks = (await listed(alice))["tasks"]
    assert [task["id"] for task in tasks] == [ids[5], ids[1], ids[0], ids[4], ids[3], ids[2]]


async def test_pages_split_the_list_without_gap_or_repetition(alice: Account) -> None:
    ids = [(await alice.create_task())["id"] for _ in range(7)]

    pages = [await listed(alice, f"?page={page}&per_page=3") for page in (1, 2, 3)]
    assert [task["id"] for page in pages for task in page["tasks"]] == ids[::-1]
    assert {(page["total"], page["pages"]) for page in pages} == {(7, 3)}
    assert [page["page"] for page in pages] == [1, 2, 3]


async def test_twenty_are_on_a_page_unless_said(alice: Account) -> None:
    for _ in range(21):
        await alice.create_task()

    data = await listed(alice)
    assert (len(data["tasks"]), data["total"], data["pages"]) == (20, 21, 2)


@pytest.mark.parametrize("page", [3, 10_000, 9_007_199_254_740_991])
async def test_a_page_past_the_end_is_empty_and_keeps_the_totals(alice: Account, page: int) -> None:
    await alice.create_task()

    data = await listed(alice, f"?page={page}&per_page=100")
    assert data == {"tasks": [], "total": 1, "page": page, "pages": 1, "next_cursor": None}


async def test_filters_combine_and_repeat(alice: Account) -> None:
    for status in ("pending", "in_progress", "completed"):
        for priority in ("low", "high", "critical"):
            await alice.create_task(title=f"{status}/{priority}", status=status, priority=priority)

    async def titles(query: str) -> set[str]:
        return {task["title"] for task in (await listed(alice, query))["tasks"]}

    assert len(await titles("?status=pending")) == 3
    assert await titles("?status=cancelled") == set()
    assert len(await titles("?status=pending&status=completed")) == 6
    assert await titles("?priority=low&status=pending") == {"pending/low"}
    assert await titles("?priority=low&priority=critical&status=completed&status=completed") == {
        "completed/low",
        "completed/critical",
    }
    assert (await listed(alice, "?priority=high&per_page=1"))["total"] == 3


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("page=0", {"query.page": "out_of_range"}),
        ("page=-1", {"query.page": "out_of_range"}),
        ("page=", {"query.page": "wrong_type"}),
        ("page=1.0", {"query.page": "wrong_type"}),
        ("page=1_0", {"query.page": "wrong_type"}),
        ("page=%201", {"query.page": "wrong_type"}),
        ("page=%D9%A1", {"query.page": "wrong_type"}),
        ("page=abc", {"query.page": "wrong_type"}),
        ("page=9007199254740992", {"query.page": "out_of_range"}),
        ("page=9223372036854775808", {"query.page": "out_of_range"}),
        ("page=" + "9" * 5000, {"query.page": "out_of_range"}),
        ("per_page=0", {"query.per_page": "out_of_range"}),
        ("per_page=101", {"query.per_page": "out_of_range"}),
        ("page=1&page=2", {"query.page": "duplicate"}),
        ("status=done", {"query.status": "invalid"}),
        ("status=pending&status=", {"query.status": "invalid"}),
        ("status=Pending", {"query.status": "invalid"}),
        ("status=%00", {"query.status": "invalid"}),
        ("status=%FF", {"query.status": "invalid"}),
        ("priority=urgent", {"query.priority": "invalid"}),
        ("priority=1&page=x", {"query.priority": "invalid", "query.page": "wrong_type"}),
        ("state=pending", {"query.state": "unknown"}),
        ("Status=pending", {"query.Status": "unknown"}),
        ("status[]=pending", {"query.status[]": "unknown"}),
        ("foo=1&bar=2", {"query.foo": "unknown", "query.bar": "unknown"}),
        ("=1", {"query.": "unknown"}),
        ("a%00b=1", {"query.a\ufffdb": "unknown"}),
    ],
)
async def test_a_parameter_that_is_not_valid_is_named(
    alice: Account, query: str, fields: dict[str, str]
) -> None:
    response = await alice.client.get(f"/api/v1/tasks?{query}")

    assert_error(response, 400, "validation_failed", fields=fields)


async def test_the_list_is_not_found_under_the_other_slash_form(alice: Account) -> None:
    assert_error(await alice.client.get("/api/v1/tasks/"), 404, "not_found")
