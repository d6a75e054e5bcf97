"""Migrations go up, down and up again, and end where the models are."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Enum, text

from alembic import command
from app.core.settings import CHECKOUT
from app.db.migrations import alembic_config
from app.db.registry import metadata
from app.db.session import make_engine
from tests.conftest import NewDatabase
from tests.support import run_sql

OBJECTS = """
    SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relname <> 'alembic_version'
      AND c.relname <> 'alembic_version_pkc'
"""
TYPES = """
    SELECT count(*) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = 'public' AND t.typtype IN ('e', 'd')
"""


async def counted(url: str, query: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        count: int = await connection.fetchval(query)
    finally:
        await connection.close()
    return count


def alembic(verb: str, url: str, revision: str) -> None:
    """Run Alembic where no event loop runs, as the command line does."""
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(getattr(command, verb), alembic_config(url), revision).result()


async def test_migrations_go_up_down_and_up_again_and_leave_nothing_behind(
    new_empty_database: NewDatabase,
) -> None:
    url = new_empty_database()
    alembic("upgrade", url, "head")
    first = await counted(url, OBJECTS)
    assert first > 0
    alembic("downgrade", url, "base")
    assert await counted(url, OBJECTS) == 0
    assert await counted(url, TYPES) == 0
    alembic("upgrade", url, "head")
    assert await counted(url, OBJECTS) == first


async def test_models_and_migrations_agree(template_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, metadata))

    engine = make_engine(template_url, connect_timeout=5, settings={})
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        # Alembic does not look into the labels of an enum, nor at CHECK constraints.
        for table in metadata.tables.values():
            for column in table.columns:
                if isinstance(column.type, Enum):
                    query = text(f"SELECT unnest(enum_range(NULL::{column.type.name}))::text")
                    labels = (await connection.scalars(query)).all()
                    assert list(labels) == column.type.enums
        query = text("SELECT conname FROM pg_constraint WHERE contype = 'c'")
        in_database = {name for name in await connection.scalars(query) if name.startswith("ck_")}
    await engine.dispose()
    in_models = {
        str(constraint.name)
        for table in metadata.tables.values()
        for constraint in table.constraints
        if str(constraint.name).startswith("ck_")
    }
    assert in_database == in_models
    assert len(in_models) == 13


async def test_changed_tasks_stay_on_their_pages(new_database: NewDatabase) -> None:
    url = new_database()
    one = TASK + "(1, 'x', repeat('y', 400), 'pending', 'low', 1, 'x')"
    run_sql(url, ADA, *[one] * 150)

    changed_pages = """
        WITH old AS (SELECT id, (ctid::text::point)[0] AS page FROM tasks), new AS (
            UPDATE tasks SET status = 'cancelled' WHERE id % 15 = 1
            RETURNING id, (ctid::text::point)[0] AS page
        )
        SELECT count(*) FILTER (WHERE new.page <> old.page) FROM new JOIN old USING (id)
    """
    assert await counted(url, changed_pages) == 0


async def test_no_function_is_in_sql_which_each_write_would_plan_anew(template_url: str) -> None:
    in_sql = """
        SELECT count(*) FROM pg_proc JOIN pg_language ON pg_language.oid = prolang
        WHERE pronamespace = 'public'::regnamespace AND lanname = 'sql'
    """
    assert await counted(template_url, in_sql) == 0


# Forked from one process, the nodes import nothing, and so come close together.
NODES = """
import multiprocessing, sys
from app.db import migrations, registry

fork = multiprocessing.get_context("fork")
nodes = [fork.Process(target=migrations.migrate, args=[sys.argv[1]]) for _ in range(4)]
for node in nodes:
    node.start()
for node in nodes:
    node.join()
print([node.exitcode for node in nodes])
"""


@pytest.mark.long
def test_nodes_that_migrate_at_once_take_turns(new_empty_database: NewDatabase) -> None:
    url = new_empty_database()
    done = subprocess.run(
        [sys.executable, "-c", NODES, url],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert done.stdout == "[0, 0, 0, 0]\n"
    run_sql(url, "SELECT id, version FROM tasks", "SELECT id FROM credentials")


USER = "INSERT INTO users (id, username, email, email_key, password_hash) VALUES "
TASK = (
    "INSERT INTO tasks (owner_id, title, description, status, priority, version, title_key) VALUES "
)
ADA = USER + "(1, 'ada', 'a@example.com', 'a@example.com', '')"


@pytest.mark.parametrize(
    "statement",
    [
        TASK + "(1, 'x', '', 'done', 'low', 1, 'x')",
        TASK + "(1, 'x', '', 'pending', 'urgent', 1, 'x')",
        TASK + "(1, '', '', 'pending', 'low', 1, 'x')",
        TASK + "(1, 'x', '', 'completed', 'low', 1, 'x')",
        TASK + "(1, 'x', repeat('x', 20001), 'pending', 'low', 1, 'x')",
        TASK + "(1, repeat('x', 201), '', 'pending', 'low', 1, 'x')",
        TASK + "(1, 'x', '', 'pending', 'low', 0, 'x')",
        TASK + "(999, 'x', '', 'pending', 'low', 1, 'x')",
        USER + "(2, 'ADA', 'b@example.com', 'b@example.com', '')",
        USER + "(2, 'bob', 'A@example.com', 'a@example.com', '')",
    ],
)
async def test_the_database_itself_refuses_what_the_models_forbid(
    new_database: NewDatabase, statement: str
) -> None:
    url = new_database()
    run_sql(url, ADA)
    with pytest.raises(
        (
            asyncpg.IntegrityConstraintViolationError,
            asyncpg.DataError,
        )
    ) as caught:
        run_sql(url, statement)
    assert str(caught.value)


async def test_tasks_of_the_first_schema_are_kept_on_the_way_up_and_down(
    new_empty_database: NewDatabase,
) -> None:
    url = new_empty_database()
    alembic("upgrade", url, "0001")
    titles = ["Water", "ÉCOLE", "İstanbul", "ΟΔΟΣ", "ÄRGER " * 30]
    statement = "INSERT INTO tasks (owner_id, title, description, status, priority) VALUES "
    values = ", ".join(f"(1, '{title}', '', 'pending', 'low')" for title in titles)
    run_sql(url, ADA, statement + values)

    alembic("upgrade", url, "head")
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT * FROM tasks ORDER BY id")
    await connection.close()
    assert [(row["title"], row["title_key"]) for row in rows] == [
        (title, title.lower()) for title in titles
    ]
    assert {(*row["tags"], row["metadata"], row["due"], row["deleted_at"]) for row in rows} == {
        ("{}", None, None)
    }
    run_sql(url, "UPDATE tasks SET deleted_at = now() WHERE title = 'Water'")
    alembic("downgrade", url, "0001")
    assert await counted(url, "SELECT count(*) FROM tasks") == len(titles) - 1


async def test_the_end_of_an_account_looks_at_what_it_owns_alone(template_url: str) -> None:
    # A partial index does not serve a foreign key, which asks for an owner and nothing else.
    served = """
        SELECT count(*) FROM pg_constraint f WHERE f.contype = 'f' AND EXISTS (
          SELECT FROM pg_index i WHERE i.indrelid = f.conrelid AND i.indkey[0] = f.conkey[1]
            AND i.indpred IS NULL)
    """
    keys = await counted(template_url, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'")
    assert await counted(template_url, served) == keys > 0


async def test_removing_an_account_takes_all_it_owns_along(new_database: NewDatabase) -> None:
    url = new_database()
    run_sql(
        url,
        ADA,
        TASK + "(1, 'x', '', 'pending', 'low', 1, 'x')",
        "INSERT INTO credentials (user_id, kind, digest, scopes) VALUES (1, 'login', '', '{}')",
        "DELETE FROM users",
    )

    assert await counted(url, "SELECT count(*) FROM tasks") == 0
    assert await counted(url, "SELECT count(*) FROM credentials") == 0


def test_the_migrations_can_be_reviewed_as_sql(capsys: pytest.CaptureFixture[str]) -> None:
    command.upgrade(alembic_config("postgresql://unused/unused"), "head", sql=True)

    assert "CREATE TABLE tasks" in capsys.readouterr().out
