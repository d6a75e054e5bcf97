"""100,000 tasks out and in again, in constant memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import NewDatabase
from tests.support import CLEAN_ENVIRONMENT, SECRET_KEY, run_sql

TASKS = 100_000
MEMORY_LIMIT = 50 * 1024 * 1024
# Says on the last line by how much a second run raises the peak of memory over the first.
MEASURED = """
import resource, sys
from app.cli import main

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def run(*arguments):
    sys.argv = ["taskflow", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code

first, second = (arguments.split("|") for arguments in sys.argv[1:])
run(*first)
before = peak()
run(*second)
print(peak() - before)
"""
SEED = """
INSERT INTO tasks (owner_id, title, title_key, description, status, priority, tags, due_on,
    external_id, metadata, completed_at, created_at, updated_at)
SELECT 1, 'Task ' || n, 'task ' || n, repeat('"Water", then ' || n || E'\\n', n % 40),
    (ARRAY['pending', 'in_progress', 'completed', 'cancelled'])[1 + n % 4]::task_status,
    (ARRAY['low', 'medium', 'high', 'critical'])[1 + n % 4]::task_priority,
    ARRAY['garden', '=' || n], DATE '2026-01-01' + n % 400,
    CASE WHEN n % 2 = 0 THEN 'crm/' || n END,
    jsonb_build_object('n', n, 'é', repeat('x', n % 500)),
    CASE WHEN n % 4 = 2 THEN now() END, now() - n * interval '1 second', now()
FROM generate_series(1, 100000) n
"""


@pytest.fixture(scope="module")
def url(new_database: NewDatabase) -> str:
    url = new_database()
    run_sql(
        url,
        "INSERT INTO users (username, email, email_key, password_hash)"
        " SELECT name, name || '@example.com', name || '@example.com', ''"
        " FROM unnest(ARRAY['ada', 'empty', 'json', 'csv']) name",
        SEED,
    )
    return url


def measured(url: str, first: list[str], second: list[str]) -> int:
    """By how many bytes the second command raises the peak of memory over the first."""
    # A process begins with the peak of the one that started it; a shell has next to none.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-c", MEASURED, "|".join(first), "|".join(second)],
        env=CLEAN_ENVIRONMENT
        | {"ENVIRONMENT": "testing", "DATABASE_URL": url, "SECRET_KEY": SECRET_KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def titles(path: Path) -> Counter[str]:
    return Counter(task["title"] for task in json.loads(path.read_text()))


def contents(path: Path) -> list[str]:
    """What of each task must be equal, in order."""
    tasks = json.loads(path.read_text())
    assert len(tasks) == TASKS
    return [
        json.dumps({name: task[name] for name in task if name not in {"id", "owner_id", "version"}})
        for task in tasks
    ]


@pytest.mark.endurance
@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_hundred_thousand_tasks_go_out_and_in_again_in_constant_memory(
    url: str, tmp_path: Path, form: str
) -> None:
    file, empty = tmp_path / f"tasks.{form}", tmp_path / f"empty.{form}"
    grown = measured(
        url,
        ["tasks", "export", "--user", "empty", "-o", str(empty)],
        ["tasks", "export", "--user", "ada", "-o", str(file)],
    )
    size = file.stat().st_size >> 20
    print(f"export {form}: {size} MiB, peak up by {grown >> 10} KiB")  # noqa: T201 - the figure is what the run is for
    assert grown < MEMORY_LIMIT
    imports = [["tasks", "import", "--user", form, str(path)] for path in (empty, file)]
    grown = measured(url, *imports)
    print(f"import {form}: peak up by {grown >> 10} KiB")  # noqa: T201 - the same
    assert grown < MEMORY_LIMIT

    outs = []
    for user in ("ada", form):
        outs.append(tmp_path / f"{user}.json")
        measured(url, ["version"], ["tasks", "export", "--user", user, "-o", str(outs[-1])])
    assert contents(outs[0]) == contents(outs[1])

    grown = measured(url, *imports)
    print(f"import {form} once more: peak up by {grown >> 10} KiB")  # noqa: T201 - the same
    assert grown < MEMORY_LIMIT
    measured(url, ["version"], ["tasks", "export", "--user", form, "-o", str(outs[1])])
    # What has an external_id was found again, among all the others.
    assert Counter(titles(outs[1]).values()) == {1: TASKS / 2, 2: TASKS / 2}
