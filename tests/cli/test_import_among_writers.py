"""taskflow tasks import: what comes of it when others write the same tasks at the same time."""

import asyncio
import json
from collections.abc import Callable

import asyncpg
import pytest

from app.db.session import Database
from app.tasks.transfer import importing
from app.tasks.transfer.importing import ImportReport, import_tasks
from app.tasks.transfer.reading import Row
from tests.cli.support import (
    AddUsers,
    Run,
    another_writer,
    until_waited_for,
    wait_for_a_waiter,
)
from tests.support import run_sql, service_settings, waiting_for_a_lock


def adding(*names: str) -> str:
    """A statement that makes tasks with these external ids."""
    statement = (
        "INSERT INTO tasks"
        " (owner_id, title, title_key, description, status, priority, external_id) VALUES "
    )
    rows = [f"(1, 'Old', 'old', '', 'pending', 'low', '{name}')" for name in names]
    return statement + ", ".join(rows)


def locking(name: str) -> str:
    return f"SELECT FROM tasks WHERE external_id = '{name}' FOR UPDATE"


@pytest.fixture
def imported(run: Run, add_users: AddUsers) -> Callable[[str], str]:
    """Imports new titles for tasks with these external ids, one a letter; returns what is told."""
    add_users("ada")

    def import_names(names: str) -> str:
        text = "external_id,title\n" + "".join(f"{name},New\n" for name in names)
        done = run("tasks", "import", "--user", "ada", "-", "--format", "csv", text=text)
        assert done.returncode == 0, done.stderr
        return str(done.stdout.splitlines()[0])

    return import_names


def counts(created: int, replaced: int, unchanged: int = 0) -> str:
    return (
        f"Tasks imported: {created + replaced + unchanged}, of which {created} created, "
        f"{replaced} replaced, {unchanged} unchanged."
    )


def titles(run: Run) -> dict[str, str]:
    tasks = json.loads(run("tasks", "export", "--user", "ada").stdout)
    return {task["external_id"]: task["title"] for task in tasks}


def test_tasks_are_locked_in_the_order_of_their_ids_as_batches_lock_them(
    run: Run,
    imported: Callable[[str], str],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importing, "ROWS_AT_ONCE", 1)
    run_sql(database_url, adding("a", "b"))
    with until_waited_for(database_url, locking("a"), locking("b")):
        assert imported("ba") == counts(0, 2)

    assert titles(run) == {"a": "New", "b": "New"}


def test_a_task_that_another_makes_meanwhile_is_replaced(
    run: Run, imported: Callable[[str], str], database_url: str
) -> None:
    with until_waited_for(database_url, adding("b")):
        assert imported("ab") == counts(1, 1)

    assert titles(run) == {"a": "New", "b": "New"}


def test_an_import_that_waits_in_a_circle_for_new_names_steps_back_and_succeeds(
    run: Run, imported: Callable[[str], str], database_url: str
) -> None:
    # The import has made a when it comes to wait for b: PostgreSQL ends the longer wait.
    with until_waited_for(database_url, adding("b"), adding("a")):
        assert imported("ab") == counts(0, 2)

    assert titles(run) == {"a": "New", "b": "New"}


def test_an_import_that_waits_in_a_circle_for_tasks_steps_back_and_succeeds(
    run: Run, imported: Callable[[str], str], database_url: str
) -> None:
    run_sql(database_url, adding("a", "b"))
    with until_waited_for(database_url, locking("b"), locking("a")):
        assert imported("ab") == counts(0, 2)

    assert titles(run) == {"a": "New", "b": "New"}


def test_a_row_is_not_lost_when_its_task_comes_and_goes_meanwhile(
    run: Run, imported: Callable[[str], str], database_url: str
) -> None:
    run_sql(database_url, adding("k"))

    async def work(begun: Callable[[], None]) -> None:
        one, other, third = [await asyncpg.connect(database_url) for _ in range(3)]
        async with one.transaction():
            await one.execute("UPDATE tasks SET external_id = 'l'")
            begun()
            # The import has looked for all names by now, and found k.
            await wait_for_a_waiter(one)
            await third.execute(adding("a"))
            undone = other.transaction()
            await undone.start()
            await other.execute(adding("z"))
        # It has come past a, which is not its own.
        await wait_for_a_waiter(other)
        await third.execute("UPDATE tasks SET deleted_at = now() WHERE external_id = 'a'")
        await undone.rollback()
        for connection in (one, other, third):
            await connection.close()

    with another_writer(work):
        assert imported("kaz") == counts(3, 0)

    assert titles(run) == {"l": "Old", "k": "New", "a": "New", "z": "New"}


def test_an_import_that_others_get_in_the_way_of_time_and_again_gives_up_in_words(
    run: Run, add_users: AddUsers, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "ATTEMPTS", 1)
    add_users("ada")
    text = "external_id,title\na,New\nb,New\n"
    with until_waited_for(database_url, adding("b"), adding("a")):
        done = run("tasks", "import", "--user", "ada", "-", "--format", "csv", text=text)

    assert (done.returncode, done.stdout) == (1, "")
    told = "others write the same tasks, time and again; try later. Nothing was imported."
    assert told in done.stderr
    assert titles(run) == {"a": "Old", "b": "Old"}


def test_an_account_that_is_closed_meanwhile_is_told_in_words(
    run: Run, add_users: AddUsers, database_url: str
) -> None:
    add_users("ada")
    with until_waited_for(database_url, "DELETE FROM users"):
        done = run("tasks", "import", "--user", "ada", "-", "--format", "csv", text="title\nOne\n")

    assert (done.returncode, done.stdout) == (1, "")
    assert "the account was closed meanwhile. Nothing was imported." in done.stderr


def test_whoever_closes_the_account_waits_for_an_import_that_has_begun_to_write(
    imported: Callable[[str], str], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is replaced and what is made is written by two statements.
    monkeypatch.setattr(importing, "ROWS_AT_ONCE", 2)
    run_sql(database_url, adding("a", "b"))

    async def work(begun: Callable[[], None]) -> None:
        one, other = [await asyncpg.connect(database_url) for _ in range(2)]
        async with one.transaction():
            await one.execute(locking("b"))
            begun()
            # The import has a by now.
            await wait_for_a_waiter(one)
            closing = asyncio.create_task(other.execute("DELETE FROM users"))
            async with asyncio.timeout(10):
                while await one.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
                    pass
        assert await closing == "DELETE 1"
        await one.close()
        await other.close()

    with another_writer(work):
        assert imported("abc") == counts(1, 2)


async def test_of_two_imports_of_one_file_at_once_the_second_finds_all_as_it_wants_it(
    add_users: AddUsers, database_url: str
) -> None:
    add_users("ada")
    database = Database(service_settings(database_url))
    rows = [Row(name, {"title": "New", "external_id": name}) for name in "abc"]

    async def import_all() -> ImportReport:
        async with database.transaction() as session:
            return await import_tasks(session, 1, rows, keep_going=False, advance=lambda _: None)

    async with database.transaction() as session:
        first = await import_tasks(session, 1, rows, keep_going=False, advance=lambda _: None)
        second = asyncio.create_task(import_all())
        await waiting_for_a_lock(database)
    assert (first.created, (await second).unchanged) == (3, 3)
    await database.close()
