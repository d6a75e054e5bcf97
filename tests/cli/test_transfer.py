"""taskflow tasks export and import: what goes out comes in again."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import AddUsers, Run
from tests.support import run_sql

TEXTS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
    "'=1",
    "''=1",
    "'tis",
    "'",
    '"',
    '""quoted""',
    "a,b;c",
    "a\nb",
    "a\r\nb",
    "a\rb",
    "a\r",
    "\\n \\ \\, \\;",
    "🌱👩‍👩‍👧",
    "مهمة اليوم",
    "\u202e\u2066שלם\u2069",
    "日本語のタスク",
    "\x01\x1b[31m\x7f\x85\u2028\u2029\ufeff",
    "null",
    "7",
    "#REF!",
    "BEGIN:VTODO\r\nEND:VTODO",
    " \u00a0x\u00a0",
    "x" * 20_000,
    "🌱\n" * 10_000,
]
TASKS: list[dict[str, Any]] = [
    {
        "title": text.strip()[:200].strip(),
        "description": text,
        "status": ["pending", "in_progress", "completed", "cancelled"][number % 4],
        "priority": ["low", "medium", "high", "critical"][number % 4],
        "tags": [text.strip()[:48] + "_t", "b,c", '"'],
        "due_at": "9999-12-31T23:59:59.999999Z" if number % 3 == 1 else None,
        "due_on": "0001-01-01" if number % 3 == 2 else None,
        "completed_at": "2026-03-04T05:06:07.000008Z" if number % 4 == 2 else None,
        "external_id": text[:200] if number % 2 else None,
        "metadata": {text[:50]: [1, -2.5, 2**70, 1e-10, True, None, {"": text[:50]}]},
        "created_at": f"2026-01-02T03:04:{number:02}.000006Z",
        "updated_at": "2026-05-06T07:08:09.000000Z",
    }
    for number, text in enumerate(TEXTS)
]
NOT_KEPT = {"id", "owner_id", "version"}


def exported(run: Run, user: str) -> list[dict[str, Any]]:
    done = run("tasks", "export", "--user", user)
    assert done.returncode == 0, done.stderr
    tasks: list[dict[str, Any]] = json.loads(done.stdout)
    return tasks


def content(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: task[name] for name in task if name not in NOT_KEPT} for task in tasks]


def imported(run: Run, user: str, path: Path, *options: str) -> str:
    done = run("tasks", "import", "--user", user, str(path), *options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture
def nasty(run: Run, add_users: AddUsers, tmp_path: Path) -> Path:
    """A file of all that is hard to keep, which is ada's; bob is there too."""
    add_users("ada", "bob")
    path = tmp_path / "nasty.json"
    path.write_text(json.dumps(TASKS, indent=1))
    imported(run, "ada", path)
    return path


def test_an_import_keeps_every_character_and_instant(run: Run, nasty: Path) -> None:
    assert nasty.exists()
    assert content(exported(run, "ada")) == TASKS
    assert exported(run, "bob") == []


@pytest.mark.parametrize("form", ["json", "csv"])
def test_what_is_exported_is_imported_into_an_empty_account_as_it_was(
    run: Run, nasty: Path, form: str
) -> None:
    path = nasty.with_name(f"tasks.{form}")
    assert run("tasks", "export", "--user", "ada", "--output", str(path)).returncode == 0
    assert f"{len(TASKS)} created, 0 replaced, 0 unchanged" in imported(run, "bob", path)

    tasks = exported(run, "bob")
    assert content(tasks) == TASKS
    assert {task["version"] for task in tasks} == {1}
    assert not {task["id"] for task in tasks} & {task["id"] for task in exported(run, "ada")}


@pytest.mark.long
def test_thousands_of_tasks_go_out_and_in_again(
    run: Run, add_users: AddUsers, database_url: str, tmp_path: Path
) -> None:
    add_users("ada", "bob")
    run_sql(
        database_url,
        "INSERT INTO tasks (owner_id, title, title_key, description, status, priority, external_id,"
        " created_at) SELECT 1, n, n, '=' || n, 'pending', 'low', nullif(n % 2, 0) * n,"
        " now() - n % 7 * interval '1 second' FROM generate_series(1, 2500) n",
    )
    path = tmp_path / "tasks.csv"
    run("tasks", "export", "--user", "ada", "--output", str(path))
    assert "2500 created" in imported(run, "bob", path)

    assert content(exported(run, "bob")) == content(exported(run, "ada"))
    assert "1250 created, 0 replaced, 1250 unchanged" in imported(run, "bob", path)


def test_no_cell_of_a_csv_begins_as_a_formula_does(run: Run, nasty: Path) -> None:
    assert nasty.exists()
    done = run("tasks", "export", "--user", "ada@example.com", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout.removeprefix("\ufeff"), newline="")))

    assert len(rows) == len(TASKS)
    cells = [cell for row in rows for cell in row.values()]
    assert not [
        cell for cell in cells if cell.startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"))
    ]
    assert [row["description"] for row in rows][:2] == ["'=1+1", "'+1"]
    assert "'tis" in [row["description"] for row in rows]
    assert done.stdout.startswith("\ufeffid,title,")


@pytest.mark.parametrize("form", ["json", "csv"])
def test_importing_again_changes_nothing_that_has_an_external_id(
    run: Run, nasty: Path, form: str
) -> None:
    path = nasty.with_name(f"named.{form}")
    named = [task for task in TASKS if task["external_id"] is not None]
    nasty.write_text(json.dumps(named))
    imported(run, "bob", nasty)
    run("tasks", "export", "--user", "bob", "--output", str(path))
    before = exported(run, "bob")
    told = imported(run, "bob", path)

    counts = f"0 created, 0 replaced, {len(named)} unchanged"
    assert told == f"Tasks imported: {len(named)}, of which {counts}.\n"
    assert exported(run, "bob") == before


def test_rows_without_an_external_id_are_made_anew_each_time_and_that_is_told(
    run: Run, nasty: Path
) -> None:
    told = imported(run, "ada", nasty)

    unnamed = len([task for task in TASKS if task["external_id"] is None])
    assert f"{unnamed} created, 0 replaced, {len(TASKS) - unnamed} unchanged." in told
    assert f"Tasks without an external_id: {unnamed}." in told
    assert len(exported(run, "ada")) == len(TASKS) + unnamed


def test_a_row_replaces_the_live_task_of_its_external_id_as_a_put_would(
    run: Run, add_users: AddUsers, database_url: str, tmp_path: Path
) -> None:
    add_users("ada")
    path = tmp_path / "tasks.csv"
    path.write_text(
        "external_id,title,status,tags,created_at,updated_at,completed_at\n"
        'a,One,completed,"[""x""]",2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,\n'
        "b,Two,completed,,,,2026-01-05T00:00:00Z\n"
        "c,Three,,,,,\n"
        "d,In the trash,,,,,\n"
    )
    imported(run, "ada", path)
    run_sql(database_url, "UPDATE tasks SET deleted_at = now() WHERE external_id = 'd'")
    one, two, three = exported(run, "ada")
    assert (one["completed_at"], one["updated_at"]) == ("2026-02-01T00:00:00.000000Z",) * 2
    path.write_text(
        "external_id,title,status,created_at,updated_at\n"
        "a,Uno,completed,2025-01-01T00:00:00Z,2025-01-01T00:00:00Z\n"
        "b,Two,pending,,\n"
        "c,Three,,2025-01-01T00:00:00Z,\n"
        "d,New,,,\n"
    )
    assert "imported: 4, of which 1 created, 2 replaced, 1 unchanged." in imported(run, "ada", path)

    uno, dos, tres, new = exported(run, "ada")
    changed = {"title": "Uno", "tags": [], "version": 2, "updated_at": uno["updated_at"]}
    assert uno == one | changed
    assert uno["updated_at"] > one["updated_at"]
    changed = {"status": "pending", "completed_at": None, "version": 2}
    assert dos == two | changed | {"updated_at": dos["updated_at"]}
    assert tres == three
    assert (new["title"], new["version"]) == ("New", 1)


def test_absent_fields_take_their_defaults_and_instants_agree(
    run: Run, add_users: AddUsers, tmp_path: Path
) -> None:
    add_users("ada")
    path = tmp_path / "tasks.json"
    path.write_text('[{"title": " a "}, {"title": "b", "status": "completed"}]')
    imported(run, "ada", path)

    plain, completed = exported(run, "ada")
    assert plain | {"id": 1, "created_at": "", "updated_at": ""} == {
        "id": 1,
        "title": "a",
        "description": "",
        "status": "pending",
        "priority": "medium",
        "owner_id": 1,
        "tags": [],
        "due_at": None,
        "due_on": None,
        "completed_at": None,
        "external_id": None,
        "metadata": {},
        "version": 1,
        "created_at": "",
        "updated_at": "",
    }
    assert completed["completed_at"] == completed["updated_at"] == plain["created_at"]


def test_a_file_comes_from_standard_input_and_goes_to_standard_output(
    run: Run, add_users: AddUsers
) -> None:
    add_users("ada")
    done = run("tasks", "import", "--user", "ada", "-", "--format", "csv", text="title\r\nTea\r\n")
    assert done.returncode == 0, done.stderr
    assert [task["title"] for task in exported(run, "ada")] == ["Tea"]
    done = run("tasks", "export", "--user", "ada", "--format", "ics")
    assert done.stdout.startswith("BEGIN:VCALENDAR\r\n")
    assert "Tasks exported: 1." in done.stderr


def test_a_file_is_there_when_it_is_complete_and_not_before(
    run: Run, add_users: AddUsers, database_url: str, tmp_path: Path
) -> None:
    add_users("ada")
    path = tmp_path / "tasks.csv"
    path.write_text("of yesterday")
    run_sql(database_url, "ALTER TABLE tasks RENAME COLUMN description TO text")
    with pytest.raises(Exception, match="description"):
        run("tasks", "export", "--user", "ada", "--output", str(path))
    assert path.read_text() == "of yesterday"
    run_sql(database_url, "ALTER TABLE tasks RENAME COLUMN text TO description")
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    assert run("tasks", "export", "--user", "ada", "--output", str(link)).returncode == 0

    assert link.is_symlink()
    assert path.read_text("utf-8-sig").startswith("id,title,")
    assert {file.name for file in tmp_path.iterdir()} == {"tasks.csv", "link.csv"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["export", "--user", "eve"], "there is no user 'eve'"),
        (["import", "--user", "eve", "{path}"], "there is no user 'eve'"),
        (["import", "--user", "ada", "{path}.ics"], "say by --format what"),
        (["import", "--user", "ada", "-"], "say by --format what - is: json, csv"),
        (["import", "--user", "ada", "{folder}/none.csv"], "none.csv: No such file"),
        (["import", "--user", "ada", "{folder}", "--format", "csv"], "Is a directory"),
        (["export", "--user", "ada", "-o", "{folder}/none/a.csv"], "a.csv: No such file"),
        (["export", "--user", "ada", "-o", "{path}.xlsx"], "say by --format what"),
        pytest.param(
            ["import", "--user", "ada", "/proc/self/mem", "--format", "csv"],
            "Input/output error",
            marks=pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc"),
        ),
        pytest.param(
            ["export", "--user", "ada", "-o", "/dev/full"],
            "/dev/full: No space left",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full"),
        ),
    ],
)
def test_what_cannot_be_read_or_written_is_told_in_words(
    run: Run, add_users: AddUsers, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    add_users("ada")
    path = tmp_path / "tasks.csv"
    path.write_text("title\n")
    done = run("tasks", *(part.format(path=path, folder=tmp_path) for part in arguments))

    assert done.returncode == 1
    assert complaint in done.stderr
    assert "database" not in done.stderr
    assert "Traceback" not in done.stderr
