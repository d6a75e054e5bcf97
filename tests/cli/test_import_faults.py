"""taskflow tasks import: what is wrong, where, and that nothing of it is left behind."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.tasks.transfer.importing import ROWS_AT_ONCE
from tests.cli.support import DEADLINE_SECONDS, AddUsers, Run, wait_for_a_waiter
from tests.support import (
    CLEAN_ENVIRONMENT,
    SECRET_KEY,
    SERVICE_DEFAULTS,
    TASKFLOW,
    as_environment,
    run_sql,
)


@pytest.fixture
def refused(run: Run, add_users: AddUsers, tmp_path: Path) -> Any:
    """Imports what is not valid, sees that nothing is there then, and returns what is told."""
    add_users("ada")

    def refuse(text: str | bytes, form: str = "csv") -> str:
        path = tmp_path / f"tasks.{form}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        done = run("tasks", "import", "--user", "ada", str(path))
        assert done.returncode == 1, done.stderr
        assert "othing was imported." in done.stderr
        assert "Traceback" not in done.stderr
        assert run("tasks", "export", "--user", "ada").stdout == "[\n]\n"
        return done.stderr

    return refuse


def test_each_fault_of_a_csv_is_told_with_its_line_and_field(refused: Any) -> None:
    told = refused(
        "id,title,description,status,tags,due_at,due_on,completed_at,external_id,metadata,"
        "created_at,updated_at\r\n"
        "1,Good,,,,,,,a,,,\r\n"
        '2, ,"two\r\nlines",done,"[""x"",""x""]",,,,,,,\r\n'
        "x,Fine,,,x,2026-12-01,,,,[],,\r\n"
        "\r\n"
        "3,Due twice,,,,2026-12-01T00:00:00Z,2026-12-01,,,,,\r\n"
        "4,Early,,,,,,2026-01-01T00:00:00Z,a,,,\r\n"
        "5,Future,,completed,,,,2999-01-01T00:00:00Z,,,1969-12-31T23:59:59Z,\r\n"
        "6,Order,,,,,,,,,2026-02-01T00:00:00Z,2026-01-01T00:00:00Z\r\n"
        "7,Same,,,,,,,a,,,\r\n"
        f'8,Large,,,,,,,,"{{""a"": [{",".join(["1e300"] * 60)}]}}",,\r\n'
        "9,Short\r\n"
        "10,NUL\x00,,,,,,,,,,\r\n"
    )

    for line in (
        "line 3, title: String should have at least 1 character",
        "line 3, status: Input should be 'pending', 'in_progress', 'completed' or 'cancelled'",
        "line 3, tags: Input should hold each item once",
        "line 5, id: Input should be a valid integer",
        "line 5, tags: Input should be JSON",
        "line 5, due_at: Input should be an instant with an offset",
        "line 5, metadata: Input should be a JSON object",
        "line 7, due_on: Input should not have both due_at and due_on",
        "line 8, completed_at: Input should be absent unless the status is completed",
        "line 9, completed_at: Input should be from 1970 to now",
        "line 9, created_at: Input should be from 1970 to now",
        "line 10, updated_at: Input should not be before created_at",
        "line 11, external_id: Input should not be the same as in line 2",
        "line 12, metadata: Input should have at most 16384 bytes as compact JSON",
        "line 13: There are 2 cells for the 12 fields of line 1",
        "line 14, title: Input must not hold NUL",
        "Rows that are not valid: 10.",
    ):
        assert line in told, told
    assert "line 2," not in told


def test_each_fault_of_a_json_file_is_told_with_its_item_line_and_field(refused: Any) -> None:
    told = refused(
        '[\n{"title": "Good", "external_id": "a"},\n{"title": 7,\n"tags": ["x", ""]},'
        '{"title": "x", "titel": "y"},\n{"title": "x", "title": "y"}, 7, tru,\n'
        '{"title": "\\ud800"}, {"title": "x", "metadata": {"a": NaN}},\n'
        '{"title": "x", "metadata": {"a": 1e400}}, {"title": "x\\u0000"},\n'
        '{"title": "x", "\\u001b[2J": 1}, {"title": "x", "external_id": "a"}]',
        "json",
    )

    for line in (
        "item 2 (line 3), title: Input should be a valid string",
        "item 2 (line 3), tags[1]: String should have at least 1 character",
        "item 3 (line 4), titel: This field is not known here",
        "item 4 (line 5), title: This field is given more than once",
        "item 5 (line 5): Input should be a JSON object",
        "item 6 (line 5): This is not valid JSON",
        "item 7 (line 6): This is not valid JSON",
        "item 8 (line 6): This is not valid JSON",
        "item 9 (line 7), metadata: Input should hold finite numbers only",
        "item 10 (line 7), title: Input must not hold NUL",
        "item 11 (line 8), \ufffd[2J: This field is not known here",
        "item 12 (line 8), external_id: Input should not be the same as in item 1 (line 2)",
        "Rows that are not valid: 11.",
    ):
        assert line in told, told


@pytest.mark.parametrize(
    ("text", "form", "complaint"),
    [
        ("", "json", "the file is not a JSON array of tasks"),
        ('{"title": "x"}', "json", "the file is not a JSON array of tasks"),
        ("[" + '{"title": "x"},' * 3, "json", "the file ends within the array, after item 3"),
        ('[{"title": "x', "json", "the file ends within the array, after item 0"),
        ('[{"title": "x"}] []', "json", "something follows the array, after item 1"),
        ('[{"title": "x"}, "' + "x" * 1_200_000, "json", "item 2 is too long for a task"),
        ("", "csv", "line 1 has no title"),
        ("title;status\nx;pending\n", "csv", "line 1 has no title"),
        ("title,owner\nx,y\n", "csv", "line 1: a task has no field 'owner'"),
        ("title,title\nx,y\n", "csv", "line 1 names title more than once"),
        ('title\nx\n"y', "csv", "line 3: a cell is too long, or has a quote where none may be"),
        ('title\nx\n"y"z\n', "csv", "line 3: a cell is too long, or has a quote where none may be"),
        ("title\nx\n" + "y" * 1_200_000, "csv", "line 3 is too long for a task"),
    ],
    ids=range(13),
)
def test_a_file_that_cannot_be_read_to_its_end_is_told_with_the_place(
    refused: Any, text: str, form: str, complaint: str
) -> None:
    assert complaint in refused(text, form)


def test_what_is_not_utf_8_is_blamed_on_its_field(refused: Any) -> None:
    assert "line 3, title: " in refused(b"title,tags\nx,\ncaf\xe9,\n")
    assert "line 2, tags: Input should be JSON" in refused(b'title,tags\nx,"[""caf\xe9""]"\n')
    assert "item 1 (line 1): This is not valid JSON" in refused(b'[{"title": "caf\xe9"}]', "json")


def test_no_more_than_fifty_faults_are_told_and_all_are_counted(refused: Any) -> None:
    told = refused("title,status\n" + "x,done\n" * 3_000)
    assert told.count("status: ") == 50
    assert "Faults that are not shown: 2950.\nRows that are not valid: 3000." in told
    told = refused("title,external_id\n" + "x,a\n" * 200)
    assert told.count("the same as in line 2") == 50
    assert "Faults that are not shown: 149.\nRows that are not valid: 199." in told


def test_with_keep_going_the_valid_rows_are_imported_and_the_others_told(
    run: Run, add_users: AddUsers
) -> None:
    add_users("ada")
    large = {"title": "Large", "metadata": {"a": [1e300] * 60}}
    text = json.dumps(
        [
            {"title": "One", "external_id": "a"},
            {"title": ""},
            {"title": "Two", "external_id": "a"},
            large,
            {"title": "Three"},
        ]
    )
    done = run(
        *("tasks", "import", "--user", "ada", "-", "--format", "json", "--keep-going"), text=text
    )

    assert done.returncode == 1
    assert done.stdout.startswith(
        "Tasks imported: 2, of which 2 created, 0 replaced, 0 unchanged.\n"
        "Tasks without an external_id: 1. "
    )
    assert "Rows that are not valid: 3." in done.stderr
    tasks = json.loads(run("tasks", "export", "--user", "ada").stdout)
    assert [task["title"] for task in tasks] == ["One", "Three"]


ROW = (
    "INSERT INTO tasks (owner_id, title, title_key, description, status, priority, external_id)"
    " VALUES (1, 'Old', 'old', '', 'pending', 'low', 'a')"
)


def environment_of(database_url: str) -> dict[str, str]:
    return CLEAN_ENVIRONMENT | {
        "ENVIRONMENT": "testing",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        **as_environment(SERVICE_DEFAULTS),
    }


@pytest.mark.long
async def test_an_import_that_is_told_to_stop_leaves_nothing_behind(
    add_users: AddUsers, database_url: str, tmp_path: Path
) -> None:
    add_users("ada")
    run_sql(database_url, ROW)
    path = tmp_path / "tasks.csv"
    # The first rows are written when the import comes to wait for the last one.
    path.write_text("title,external_id\n" + "x,\n" * ROWS_AT_ONCE + "Locked,a\n")
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("SELECT * FROM tasks FOR UPDATE")
        process = await asyncio.create_subprocess_exec(
            *(TASKFLOW, "tasks", "import", "--user", "ada", path),
            env=environment_of(database_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        await wait_for_a_waiter(connection)
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
        titles = await connection.fetchval("SELECT array_agg(title) FROM tasks")
    await connection.close()

    assert (process.returncode, output) == (128 + signal.SIGTERM, b"")
    assert titles == ["Old"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
async def test_an_import_that_waits_for_who_writes_its_file_holds_nothing_and_can_be_told_to_stop(
    add_users: AddUsers, database_url: str, number: signal.Signals, code: int
) -> None:
    add_users("ada")
    process = await asyncio.create_subprocess_exec(
        *(TASKFLOW, "tasks", "import", "--user", "ada", "-", "--format", "csv"),
        env=environment_of(database_url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.transport.set_write_buffer_limits(0)
    process.stdin.write(b"title\n" + b"One\n" * 100_000)
    # More than a pipe takes: most of it has been read.
    await asyncio.wait_for(process.stdin.drain(), DEADLINE_SECONDS)
    connection = await asyncpg.connect(database_url)
    held = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state LIKE 'idle in transaction%'"
    )
    await connection.close()
    process.send_signal(number)
    # Its standard input stays open.
    await asyncio.wait_for(process.wait(), DEADLINE_SECONDS)
    output, errors = await process.communicate()

    assert held == 0
    assert (process.returncode, output) == (code, b"")
    assert b"Traceback" not in errors


def test_an_import_that_takes_longer_than_a_statement_may_is_told_in_words(
    run: Run, add_users: AddUsers, database_url: str
) -> None:
    add_users("ada")
    run_sql(
        database_url,
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$",
        "CREATE TRIGGER stall BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION stall()",
    )
    limit = {"DATABASE_STATEMENT_TIMEOUT": "0.5"}
    done = run(
        *("tasks", "import", "--user", "ada", "-", "--format", "csv"), text="title\nOne\n", **limit
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "taskflow: a statement took longer than it may. Try again" in done.stderr
