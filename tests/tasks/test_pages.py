"""Sorts, pages, cursors and links of GET /api/v1/tasks."""

import asyncio
import random
import re
from datetime import UTC, datetime, time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from app.core.pagination import CursorSigner
from app.db.session import Database
from tests.support import SECRET_KEY, Account, assert_error

PRIORITIES = ["low", "medium", "high", "critical"]
SORTS = [
    f"{direction}{key}"
    for key in ("created_at", "updated_at", "due", "priority", "title")
    for direction in ("", "-")
]


async def listed(account: Account, **query: Any) -> dict[str, Any]:
    response = await account.client.get("/api/v1/tasks", params=query)
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()["data"]
    return data


async def walked(account: Account, **query: Any) -> list[dict[str, Any]]:
    """All tasks of a list by its cursors."""
    data = await listed(account, **query)
    tasks: list[dict[str, Any]] = data["tasks"]
    while data["next_cursor"]:
        data = await listed(account, **query, cursor=data["next_cursor"])
        assert (data["total"], data["page"], data["pages"]) == (None, None, None)
        tasks += data["tasks"]
    return tasks


def links_of(header: str) -> dict[str, dict[str, list[str]]]:
    """The parameters of each link, by its relation."""
    found = re.findall(r'<(/api/v1/tasks\?[^>]*)>; rel="(\w+)"', header)
    return {relation: parse_qs(urlsplit(target).query) for target, relation in found}


def in_order(tasks: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """The tasks as the contract sorts them."""
    descending = sort.startswith("-")

    def due(task: dict[str, Any]) -> datetime | None:
        if task["due_on"]:
            return datetime.combine(datetime.fromisoformat(task["due_on"]), time.max, UTC)
        return datetime.fromisoformat(task["due_at"]) if task["due_at"] else None

    def key(task: dict[str, Any]) -> Any:
        match sort.removeprefix("-"):
            case "priority":
                return PRIORITIES.index(task["priority"])
            case "title":
                return task["title"].lower()
            case "due":
                moment = due(task)
                # Without a due date it is last both ways.
                return ((moment is None) != descending, moment or datetime.min.replace(tzinfo=UTC))
            case name:
                return task[name]

    return sorted(tasks, key=lambda task: (key(task), task["id"]), reverse=descending)


TITLES = [
    "Zebra",
    "apfel",
    "Äpfel",
    "İz",
    "zebra",
    "ΟΔΟΣ",
    "οδός",
    "日本",
    "🌱",
    "\uff21",
    "a b",
    "a-b",
    "ab",
]


@pytest.fixture
async def varied(alice: Account, database: Database) -> list[dict[str, Any]]:
    """Tasks with equal and different keys of every sort."""
    chance = random.Random(5)  # noqa: S311 - the same tasks every time
    dues: list[dict[str, str]] = [
        {},
        {"due_on": "2026-05-01"},
        {"due_at": "2026-05-01T23:59:59.999999Z"},
        {"due_at": "2026-05-02T00:00:00Z"},
        {"due_on": "9999-12-31"},
        {"due_on": "0001-01-01"},
        {"due_at": "0001-01-01T00:00:00Z"},
    ]
    ids = []
    for number in range(26):
        task = await alice.create_task(
            title=TITLES[number % len(TITLES)],
            priority=chance.choice(PRIORITIES),
            **chance.choice(dues),
        )
        ids.append(task["id"])
    async with database.session() as session:
        await session.execute(
            text(
                "UPDATE tasks SET created_at = '2026-01-01'::timestamptz + id % 3 * interval '1 s',"
                " updated_at = '2026-01-02'::timestamptz + id % 5 * interval '1 us'"
                " WHERE id = ANY(:ids)"
            ),
            {"ids": ids},
        )
    tasks: list[dict[str, Any]] = (await listed(alice, per_page=100))["tasks"]
    assert len(tasks) == 26
    return tasks


async def test_every_sort_is_that_of_the_model_by_pages_and_by_cursors(
    alice: Account, varied: list[dict[str, Any]]
) -> None:
    for sort in SORTS:
        expected = [task["id"] for task in in_order(varied, sort)]
        pages = [await listed(alice, sort=sort, per_page=14, page=page) for page in (1, 2)]
        assert [task["id"] for page in pages for task in page["tasks"]] == expected, sort
        assert {page["total"] for page in pages} == {26}
        walk = await walked(alice, sort=sort, per_page=5, count="false")
        assert [task["id"] for task in walk] == expected, sort
    walk = await walked(alice, sort="-due", per_page=1)
    assert [task["id"] for task in walk] == [task["id"] for task in in_order(varied, "-due")]


async def test_a_cursor_from_any_page_continues_there_with_any_page_size(
    alice: Account, varied: list[dict[str, Any]]
) -> None:
    expected = [task["id"] for task in in_order(varied, "-due")]
    page = await listed(alice, sort="-due", per_page=4, page=3, count="false")
    rest = await listed(alice, sort="-due", per_page=100, cursor=page["next_cursor"])

    assert (page["total"], page["page"], page["pages"]) == (None, 3, None)
    assert [task["id"] for task in page["tasks"] + rest["tasks"]] == expected[8:]
    assert rest["next_cursor"] is None


async def test_the_last_page_has_no_cursor_even_when_it_is_full(alice: Account) -> None:
    for _ in range(4):
        await alice.create_task()

    first = await listed(alice, per_page=2)
    assert first["next_cursor"]
    assert (await listed(alice, per_page=2, page=2))["next_cursor"] is None
    assert (await listed(alice, per_page=2, cursor=first["next_cursor"]))["next_cursor"] is None
    assert (await listed(alice, per_page=4))["next_cursor"] is None


@pytest.mark.parametrize("sort", ["created_at", "-updated_at", "due", "-priority", "title"])
async def test_a_walk_meets_every_task_that_stood_once_and_in_order_while_others_write(
    alice: Account, sort: str
) -> None:
    chance = random.Random(sort)  # noqa: S311 - the same walk every time
    tasks = [
        await alice.create_task(
            title=f"{number % 5}",
            priority=PRIORITIES[number % 4],
            due_on=[None, "2026-05-01", "2026-05-02"][number % 3],
        )
        for number in range(24)
    ]
    standing = {task["id"]: task for task in tasks[::3]}
    others = [task["id"] for task in tasks if task["id"] not in standing]

    async def disturb() -> None:
        if others and chance.random() < 0.7:
            path = f"/api/v1/tasks/{others.pop()}"
            change = {"title": "0", "priority": "critical", "due_on": None}
            if chance.random() < 0.5:
                await alice.client.delete(path)
            else:
                await alice.client.patch(path, json=change)
        else:
            await alice.create_task(title=chance.choice("0123456"), due_on="2026-05-01")

    data = await listed(alice, sort=sort, per_page=3)
    seen = list(data["tasks"])
    while data["next_cursor"]:
        _, _, data = await asyncio.gather(
            disturb(),
            disturb(),
            listed(alice, sort=sort, per_page=3, cursor=data["next_cursor"]),
        )
        seen += data["tasks"]
    stood = [task for task in seen if task["id"] in standing]
    assert stood == in_order(list(standing.values()), sort)


async def test_a_cursor_opens_only_the_list_that_it_was_made_for(
    alice: Account, bob: Account
) -> None:
    for _ in range(3):
        await alice.create_task(tags=["a", "b"], due_on="2026-05-01")
        await bob.create_task(tags=["a", "b"])
    query: dict[str, Any] = {
        "tag": ["a", "b"],
        "sort": "due",
        "per_page": 1,
        "due_after": "2020-01-01T00:00:00Z",
    }
    cursor = (await listed(alice, **query))["next_cursor"]

    assert len((await listed(alice, **query, cursor=cursor))["tasks"]) == 1
    # The same filters in other words.
    same = query | {
        "tag": ["b", "a", "b"],
        "due_after": "2020-01-01T01:00:00+01:00",
        "time_zone": "UTC",
    }
    assert len((await listed(alice, **same, cursor=cursor))["tasks"]) == 1
    wrong: list[dict[str, Any]] = [
        query | {"tag": "a"},
        query | {"sort": "-due"},
        query | {"due_after": "2020-01-01T00:00:01Z"},
        query | {"time_zone": "Europe/Berlin"},
        query | {"status": "pending"},
        query | {"page": 1},
        query | {"page": 2},
        {},
    ]
    for other in wrong:
        response = await alice.client.get("/api/v1/tasks", params=other | {"cursor": cursor})
        assert_error(response, 400, "validation_failed", fields={"query.cursor": "invalid"})
    response = await bob.client.get("/api/v1/tasks", params=query | {"cursor": cursor})
    assert_error(response, 400, "validation_failed", fields={"query.cursor": "invalid"})
    response = await alice.client.get("/api/v1/tasks/trash", params={"cursor": cursor})
    assert_error(response, 400, "validation_failed", fields={"query.cursor": "invalid"})
    response = await alice.client.get("/api/v1/tasks/stats", params={"cursor": cursor})
    assert_error(response, 400, "validation_failed", fields={"query.cursor": "unknown"})


async def test_a_cursor_has_one_spelling(alice: Account) -> None:
    await alice.create_task()
    await alice.create_task()
    cursor = (await alice.client.get("/api/v1/tasks?per_page=1")).json()["data"]["next_cursor"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    accepted = [
        letter
        for letter in letters
        if (
            await alice.client.get(f"/api/v1/tasks?per_page=1&cursor={cursor[:-1]}{letter}")
        ).is_success
    ]
    assert accepted == [cursor[-1]]


async def test_a_cursor_that_was_tampered_with_is_refused(alice: Account) -> None:
    for _ in range(2):
        await alice.create_task()
    cursor = (await listed(alice, per_page=1))["next_cursor"]

    for position in range(0, len(cursor), 5):
        other = "A" if cursor[position] != "A" else "B"
        forged = cursor[:position] + other + cursor[position + 1 :]
        response = await alice.client.get("/api/v1/tasks", params={"cursor": forged})
        assert_error(response, 400, "validation_failed", fields={"query.cursor": "invalid"})
    for nonsense in (
        "",
        "A",
        "AAAA",
        "=",
        cursor + "=",
        cursor + "A",
        cursor[:-1],
        "é",
        "éé",
        "\x00",
    ):
        response = await alice.client.get("/api/v1/tasks", params={"cursor": nonsense})
        assert_error(response, 400, "validation_failed", fields={"query.cursor": "invalid"})
    response = await alice.client.get("/api/v1/tasks", params={"cursor": "A" * 4097})
    assert_error(response, 400, "validation_failed", fields={"query.cursor": "too_long"})


def test_a_cursor_outlives_a_change_of_the_secret_and_shows_no_secret() -> None:
    old, new = CursorSigner([SECRET_KEY]), CursorSigner(["another secret", SECRET_KEY])
    cursor = old.make(["title", 7], [1])

    assert new.open(cursor, [1]) == ["title", 7]
    assert new.make(["title", 7], [1]) != cursor


async def test_links_lead_to_the_other_pages_with_the_same_query(alice: Account) -> None:
    for _ in range(5):
        await alice.create_task(tags=["a&b", "é"])

    async def links(**query: Any) -> dict[str, dict[str, list[str]]]:
        response = await alice.client.get("/api/v1/tasks", params=query)
        return links_of(response.headers.get("Link", ""))

    kept = {"tag": ["a&b", "é"], "per_page": ["2"]}
    pages = {
        page: {
            relation: link["page"] for relation, link in (await links(page=page, **kept)).items()
        }
        for page in (1, 2, 3, 4, 9)
    }
    assert pages == {
        1: {"first": ["1"], "next": ["2"], "last": ["3"]},
        2: {"first": ["1"], "prev": ["1"], "next": ["3"], "last": ["3"]},
        3: {"first": ["1"], "prev": ["2"], "last": ["3"]},
        4: {"first": ["1"], "prev": ["3"], "last": ["3"]},
        9: {"first": ["1"], "prev": ["3"], "last": ["3"]},
    }
    assert (await links(page=2, **kept))["next"] == kept | {"page": ["3"]}
    assert set(await links(page=2, count="false", **kept)) == {"first", "prev", "next"}
    assert await links(q="nothing") == {"first": {"q": ["nothing"], "page": ["1"]}}


async def test_links_that_clients_and_proxies_would_not_take_are_left_out(alice: Account) -> None:
    word = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    for _ in range(3):
        await alice.create_task(description=word)

    async def link(**query: Any) -> str:
        given: dict[str, Any] = {"q": word, "per_page": 1, "page": 2} | query
        response = await alice.client.get("/api/v1/tasks", params=given)
        assert response.status_code == 200
        found: str = response.headers.get("Link", "")
        return found

    assert set(links_of(await link())) == {"next"}
    assert await link(tag=[f"{number}" + "水" * 48 for number in range(20)]) == ""


async def test_following_the_links_of_a_cursor_leads_to_the_end(alice: Account) -> None:
    ids = [(await alice.create_task())["id"] for _ in range(5)]
    data = await listed(alice, per_page=2)
    seen = data["tasks"]
    response = await alice.client.get(
        "/api/v1/tasks", params={"per_page": 2, "cursor": data["next_cursor"]}
    )
    while True:
        seen += response.json()["data"]["tasks"]
        if "Link" not in response.headers:
            break
        (relation,) = links_of(response.headers["Link"])
        assert relation == "next"
        response = await alice.client.get(response.headers["Link"].partition(">")[0][1:])

    assert [task["id"] for task in seen] == ids[::-1]


async def test_total_and_page_of_one_answer_are_of_one_moment(alice: Account) -> None:
    async def write() -> None:
        for _ in range(10):
            await alice.create_task()

    async def read() -> None:
        for _ in range(10):
            data = await listed(alice, per_page=100)
            assert data["total"] == len(data["tasks"])

    await asyncio.gather(write(), write(), read(), read())
    assert (await listed(alice))["total"] == 20


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("sort=", {"query.sort": "invalid"}),
        ("sort=id", {"query.sort": "invalid"}),
        ("sort=%2Btitle", {"query.sort": "invalid"}),
        ("sort=--title", {"query.sort": "invalid"}),
        ("sort=title&sort=due", {"query.sort": "duplicate"}),
        ("count=no", {"query.count": "wrong_type"}),
        ("cursor=a&cursor=b", {"query.cursor": "duplicate"}),
    ],
)
async def test_a_parameter_of_the_order_that_is_not_valid_is_named(
    alice: Account, query: str, fields: dict[str, str]
) -> None:
    response = await alice.client.get(f"/api/v1/tasks?{query}")
    assert_error(response, 400, "validation_failed", fields=fields)
