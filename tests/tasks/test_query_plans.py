"""The list's queries find their page by an index: no sort, no walk through other rows."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from app.accounts.credentials import SCOPES, Actor, values_of_actor
from app.db.session import Database
from app.db.statements import Statement
from app.tasks import queries
from app.tasks.filters import TaskFilters, given, values_by_parameter, without_values
from app.tasks.ordering import ordering_of
from app.tasks.queries import matching
from app.tasks.schemas import TaskQuery
from app.tasks.transfer.exporting import walk
from tests.conftest import NewDatabase
from tests.support import run_sql, service_settings

OWNER = Actor(user_id=1, credential_id=1, scopes=frozenset(SCOPES))


@pytest.fixture(scope="module")
def filled_database_url(new_database: NewDatabase) -> str:
    """An owner with 6,000 tasks, most of them completed and of low priority, and ten with fewer."""
    url = new_database()
    run_sql(
        url,
        "INSERT INTO users (id, username, email, email_key, password_hash)"
        " SELECT n, 'user' || n, n || '@x', n || '@x', '' FROM generate_series(1, 11) n",
        "INSERT INTO credentials (id, user_id, kind, digest, scopes)"
        " VALUES (1, 1, 'login', '', '{}')",
        "INSERT INTO tasks"
        " (owner_id, title, title_key, description, status, priority, completed_at, created_at,"
        " updated_at, due_at, tags)"
        " SELECT CASE WHEN n <= 6000 THEN 1 ELSE 2 + n % 9 END, 'Task ' || n, 'task ' || n,"
        " CASE WHEN n % 1200 = 7 THEN 'rare' ELSE '' END,"
        " (CASE WHEN n % 100 = 0 THEN 'pending' ELSE 'completed' END)::task_status,"
        " (CASE WHEN n % 99 = 0 THEN 'critical' ELSE 'low' END)::task_priority,"
        " CASE WHEN n % 100 <> 0 THEN now() END, now() - n * interval '1 s',"
        " now() + n * interval '1 s',"
        " CASE WHEN n % 2 = 0"
        " THEN '2030-01-01'::timestamptz + (1 + (n - 1) % 6000) * interval '1 h' END,"
        " CASE WHEN n % 1200 = 7 THEN ARRAY['rare'] ELSE ARRAY['common'] END"
        " FROM generate_series(1, 12000) n",
        "UPDATE tasks SET owner_id = 11 WHERE id > 11980",
        "VACUUM ANALYZE tasks",
    )
    return url


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def plan_of(url: str, statement: Statement, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What PostgreSQL did for the statement, node by node, from the top."""
    connection = await asyncpg.connect(url)
    try:
        sql = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}"
        answer = await connection.fetchval(sql, *statement.arguments(values))
    finally:
        await connection.close()
    return list(nodes(json.loads(answer)[0]["Plan"]))


INDEXES = {
    "created_at": "ix_tasks_owner_id_created_at",
    "updated_at": "ix_tasks_owner_id_updated_at",
    "due": "ix_tasks_owner_id_due_ascending",
    "-due": "ix_tasks_owner_id_due_descending",
    "priority": "ix_tasks_owner_id_priority",
    "title": "ix_tasks_owner_id_title_key",
}
SORTS = [
    f"{direction}{key}"
    for key in ("created_at", "updated_at", "due", "priority", "title")
    for direction in ("", "-")
]


async def read_plan(
    url: str, query: TaskQuery, position: list[Any] | None = None, *, counted: bool = False
) -> list[Any]:
    filters = given(query)
    page = queries.Page(
        queries.Listed(without_values(filters)),
        query.sort,
        query.per_page,
        counted=counted,
        offset=query.offset > 0,
        after=position is not None,
    )
    values = values_by_parameter(filters) | values_of_actor(OWNER) | {"offset": query.offset}
    if position is not None:
        values["after_key"] = page.ordering.parse(position[0])
        values["after_id"] = position[1]
    return await plan_of(url, queries.select_page(page), values)


def assert_read_in_order(plan: list[dict[str, Any]], index: str, most: int) -> None:
    """The tasks came from this index in order, at most so many, and none was thrown away."""
    assert not [node["Node Type"] for node in plan if "Sort" in node["Node Type"]]
    (scan,) = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert scan["Index Name"] == index
    assert scan["Actual Rows"] <= most
    assert scan.get("Rows Removed by Filter", 0) == 0


@pytest.mark.parametrize("sort", SORTS)
async def test_a_page_is_read_from_an_index_in_order(filled_database_url: str, sort: str) -> None:
    query = TaskQuery.model_validate({"sort": sort, "page": 3, "count": False})
    plan = await read_plan(filled_database_url, query)

    assert_read_in_order(plan, INDEXES.get(sort) or INDEXES[sort.removeprefix("-")], 61)


@pytest.mark.parametrize("sort", SORTS)
async def test_a_cursor_costs_the_same_at_any_depth(filled_database_url: str, sort: str) -> None:
    query = TaskQuery.model_validate({"sort": sort, "count": False})
    ordering = ordering_of(query.sort)
    deep = {
        "created_at": (datetime.now(UTC) - timedelta(seconds=3_000)).isoformat(),
        "updated_at": (datetime.now(UTC) + timedelta(seconds=3_000)).isoformat(),
        "due": "2030-05-01T00:00:00+00:00",
        "priority": "low",
        "title": "task 4000",
    }
    plan = await read_plan(filled_database_url, query, [deep[sort.removeprefix("-")], 3_000])

    assert ordering.descending == sort.startswith("-")
    assert_read_in_order(plan, INDEXES.get(sort) or INDEXES[sort.removeprefix("-")], 21)


async def test_the_newest_of_a_status_are_read_from_an_index(filled_database_url: str) -> None:
    query = TaskQuery.model_validate({"status": ["pending"], "count": False})
    plan = await read_plan(filled_database_url, query)

    assert_read_in_order(plan, "ix_tasks_owner_id_status_created_at", 21)


async def test_the_total_is_counted_within_the_owners_part_of_an_index(
    filled_database_url: str,
) -> None:
    query = TaskQuery.model_validate({"status": ["pending"]})
    filters = given(query)
    count = queries.count_listed(queries.Listed(without_values(filters)))
    values = values_by_parameter(filters) | values_of_actor(OWNER)
    plan = await plan_of(filled_database_url, count, values)

    (scan,) = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert scan["Node Type"] == "Index Only Scan"
    assert scan["Actual Rows"] == 60


@pytest.mark.parametrize(
    "fields", [{"q": '"rare"'}, {"tag": ["rare"]}, {"q": "rar", "tag": ["rare"]}]
)
async def test_a_rare_word_or_tag_is_found_without_a_look_at_the_other_tasks(
    filled_database_url: str, fields: dict[str, Any]
) -> None:
    query = TaskQuery.model_validate(fields | {"count": False})
    plan = await read_plan(filled_database_url, query)

    assert [
        node["Index Name"]
        for node in plan
        if "Index Name" in node and "tasks" in node["Index Name"]
    ] == ["ix_tasks_owner_id_search_tags"]
    (scan,) = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert scan["Actual Rows"] == 5
    assert scan.get("Rows Removed by Index Recheck", 0) == 0


def words_looked_up(plan: list[dict[str, Any]]) -> str:
    """What the index of words was asked for."""
    return " ".join(
        node["Index Cond"]
        for node in plan
        if node.get("Index Name") == "ix_tasks_owner_id_search_tags"
    )


@pytest.mark.parametrize(("q", "looked_up"), [('"rare" tas', False), ('"task" rar', True)])
async def test_the_start_of_a_word_is_looked_up_unless_it_is_common(
    filled_database_url: str, q: str, *, looked_up: bool
) -> None:
    query = TaskQuery.model_validate({"q": q, "count": False})
    plan = await read_plan(filled_database_url, query)

    assert (":*" in words_looked_up(plan)) == looked_up
    (scan,) = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert scan["Actual Rows"] == 5


# "task" has twelve thousand entries in the index. The first owner has half of them, the last few.
@pytest.mark.parametrize(
    ("arguments", "is_common"),
    [
        ("'tas:*', 11, NULL", True),
        ("'tas:*', 1, NULL", False),
        ("'tas:*', 1, 'rare'", True),
        ("'tas:*', 1, 'task'", False),
        ("'rar:*', 11, NULL", False),
        ("'tas <-> 11:*', 11, NULL", False),
        ("NULL, 11, NULL", False),
    ],
)
async def test_a_word_is_common_beside_what_else_would_be_looked_through(
    filled_database_url: str, arguments: str, *, is_common: bool
) -> None:
    connection = await asyncpg.connect(filled_database_url)
    try:
        assert await connection.fetchval(f"SELECT is_common({arguments})") == is_common
    finally:
        await connection.close()


# A plan for all values would ask for each task how common the word is.
@pytest.mark.direct
async def test_an_export_of_what_is_searched_for_is_planned_for_its_words(
    filled_database_url: str,
) -> None:
    among = matching(OWNER, given(TaskFilters(q="tas")))
    database = Database(service_settings(filled_database_url, database_pool_size=1))
    kept = text(
        "SELECT sum(custom_plans)::int AS custom, sum(generic_plans)::int AS generic"
        " FROM pg_prepared_statements WHERE statement LIKE 'SELECT tasks.%is_common%'"
    )
    try:
        assert sum([len(batch) async for batch in walk(database, among, OWNER)]) == 6_000
        (row,) = await database.fetch(Statement(kept), {})
    finally:
        await database.close()

    assert row["custom"] > 20
    assert row["generic"] == 0


@pytest.mark.parametrize("sort", ["due", "-due"])
async def test_what_is_due_in_a_month_is_read_from_its_part_of_the_index(
    filled_database_url: str, sort: str
) -> None:
    query = TaskQuery.model_validate(
        {
            "sort": sort,
            "due_after": "2030-05-01T00:00:00Z",
            "due_before": "2030-06-01T00:00:00Z",
            "count": False,
        }
    )
    plan = await read_plan(filled_database_url, query)

    assert not [node["Node Type"] for node in plan if "Sort" in node["Node Type"]]
    (scan,) = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert scan["Index Name"] == INDEXES[sort]
    # There is one for every second hour, and no zone is a day away from UTC.
    assert scan.get("Rows Removed by Filter", 0) <= 12


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ({"due_before": "2030-01-01T10:00:00Z"}, "ix_tasks_owner_id_due_ascending"),
        ({"due_after": "2030-09-07T18:00:00Z"}, "ix_tasks_owner_id_due_descending"),
    ],
)
@pytest.mark.parametrize("count", [False, True])
async def test_few_due_dates_are_found_without_a_walk_through_the_other_tasks(
    filled_database_url: str, fields: dict[str, Any], index: str, *, count: bool
) -> None:
    query = TaskQuery.model_validate(fields | {"count": False})
    plan = await read_plan(filled_database_url, query, counted=count)

    indexes = [node["Index Name"] for node in plan if "Index Name" in node]
    assert [name for name in indexes if "tasks" in name] == [index] * (1 + count)
    scans = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert {scan["Actual Rows"] for scan in scans} == {4}


@pytest.mark.parametrize(
    ("fields", "bounded"),
    [
        ({"updated_before": "2026-01-01T00:00:00Z", "sort": "-created_at"}, "created_at <"),
        ({"created_after": "2026-01-01T00:00:00Z", "sort": "updated_at"}, "updated_at >="),
    ],
)
async def test_a_moment_bounds_the_walk_in_the_order_of_the_other_moment(
    filled_database_url: str, fields: dict[str, Any], bounded: str
) -> None:
    query = TaskQuery.model_validate(fields | {"count": False})
    plan = await read_plan(filled_database_url, query)

    (scan,) = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert bounded in scan["Index Cond"]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        pytest.param({}, 1, marks=pytest.mark.direct),
        ({"q": "common"}, 0),
        ({"tag": ["common"]}, 0),
    ],
)
async def test_a_list_with_filters_is_planned_for_the_values_of_each_request(
    filled_database_url: str, fields: dict[str, Any], kept: int
) -> None:
    query = TaskQuery.model_validate(fields | {"count": False, "per_page": 7})
    filters = given(query)
    listed = queries.Listed(without_values(filters))
    page = queries.Page(listed, query.sort, 7, counted=False)
    values = values_by_parameter(filters) | values_of_actor(OWNER)
    values |= dict(zip(queries.NOW, (datetime.now(UTC), datetime.now(UTC).date()), strict=True))
    settings = service_settings(filled_database_url, database_pool_size=1)
    database = Database(settings)
    try:
        for statement in (
            queries.select_page(page),
            queries.count_listed(listed),
            queries.count_by_status_and_priority(without_values(filters)),
        ):
            for _ in range(7):
                await database.fetch(statement, values)
            plans = text("SELECT generic_plans FROM pg_prepared_statements WHERE statement = :sql")
            rows = await database.fetch(Statement(plans), {"sql": statement.sql})
            assert len([row for row in rows if row["generic_plans"] > 0]) == kept, statement.sql
    finally:
        await database.close()
