"""The list's queries find their page by an index: no sort, no walk through other rows."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Select, text

from app.accounts.credentials import SCOPES, Actor
from app.db.session import Database
from app.tasks import queries
from app.tasks.schemas import TaskQuery
from tests.conftest import NewDatabase
from tests.support import run_sql, service_settings

OWNER = Actor(user_id=1, credential_id=1, scopes=frozenset(SCOPES))


@pytest.fixture(scope="module")
def filled_database_url(new_database: NewDatabase) -> str:
    """One owner with 20,000 tasks, most of them completed and of low priority, among ten owners."""
    url = new_database()
    run_sql(
        url,
        "INSERT INTO users (id, username, email, email_key, password_hash)"
        " SELECT n, 'user' || n, n || '@x', n || '@x', '' FROM generate_series(1, 10) n",
        "INSERT INTO credentials (id, user_id, kind, digest, scopes)"
        " VALUES (1, 1, 'login', '', '{}')",
        "INSERT INTO tasks"
        " (owner_id, title, title_key, description, status, priority, completed_at, created_at)"
        " SELECT CASE WHEN n <= 20000 THEN 1 ELSE 2 + n % 9 END, 'Task ' || n, 'task ' || n, '',"
        " (CASE WHEN n % 100 = 0 THEN 'pending' ELSE 'completed' END)::task_status,"
        " (CASE WHEN n % 99 = 0 THEN 'critical' ELSE 'low' END)::task_priority,"
        " CASE WHEN n % 100 <> 0 THEN now() END, now() - n * interval '1 s'"
        " FROM generate_series(1, 40000) n",
        "VACUUM ANALYZE tasks",
    )
    return url


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def plan_of(url: str, statement: Select[Any]) -> list[dict[str, Any]]:
    """What PostgreSQL did for the statement, node by node, from the top."""
    database = Database(service_settings(url))
    dialect = database.engine.dialect
    sql = statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    async with database.session() as session:
        rows = await session.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}"))
        answer = rows.scalar_one()
    await database.close()
    plan = json.loads(answer) if isinstance(answer, str) else answer
    return list(nodes(plan[0]["Plan"]))


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ({}, "ix_tasks_owner_id_created_at"),
        ({"page": 3}, "ix_tasks_owner_id_created_at"),
        ({"status": ["pending"]}, "ix_tasks_owner_id_status_created_at"),
        ({"priority": ["critical"]}, "ix_tasks_owner_id_priority_created_at"),
    ],
)
async def test_a_page_is_read_from_an_index_in_order(
    filled_database_url: str, fields: dict[str, Any], index: str
) -> None:
    query = TaskQuery.model_validate(fields)
    plan = await plan_of(filled_database_url, queries.select_page(OWNER, query))

    scans = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert [scan["Index Name"] for scan in scans] == [index]
    assert not [node["Node Type"] for node in plan if "Sort" in node["Node Type"]]
    assert scans[0]["Actual Rows"] <= query.offset + query.per_page
    assert scans[0].get("Rows Removed by Filter", 0) == 0


async def test_the_total_is_counted_within_the_owners_part_of_an_index(
    filled_database_url: str,
) -> None:
    query = TaskQuery.model_validate({"status": ["pending"]})
    plan = await plan_of(filled_database_url, queries.count_matching(OWNER, query))

    (scan,) = [node for node in plan if node.get("Relation Name") == "tasks"]
    assert scan["Node Type"] == "Index Only Scan"
    assert scan["Actual Rows"] == 200
