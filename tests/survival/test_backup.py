"""A backup by the commands of README.md, made under load, holds all that was promised before it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.db.support import run_sql
from tests.support import blocking_client, running_service
from tests.survival.cluster import Cluster, cluster
from tests.survival.writers import Writers

pytestmark = pytest.mark.survival

README = Path(__file__).resolve().parents[2] / "README.md"
PASSWORD = "zebra-crossing-at-noon-1"
# Nothing is changed after it was written, so that equal ids mean equal rows.
TASKS = "SELECT jsonb_object_agg(id, md5(tasks::text)) FROM tasks"
KEYS_WITHOUT_TASKS = """
    SELECT count(*) FROM idempotency_keys WHERE NOT EXISTS (
        SELECT FROM tasks
        WHERE id = (convert_from(body, 'UTF8')::jsonb #>> '{data,id}')::bigint
    )
"""


def commands() -> str:
    """The commands of README's part, as they stand there."""
    part = README.read_text().partition("\n## Backup and restore\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    return str(block)


def run_commands(database: Cluster, folder: Path) -> None:
    """Run them as an operator would, who has the programs of the server's release."""
    path = f"{database.installation.folder}{os.pathsep}{os.defpath}"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-euxc", commands()],
        env={"PATH": path, "DATABASE_URL": database.url},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_dump_under_load_is_restored_with_all_that_was_acknowledged_before(
    tmp_path: Path,
) -> None:
    with cluster() as database:
        with (
            running_service(database.url) as service,
            blocking_client(service.base_url) as client,
            Writers(database.url, [service.base_url]) as writers,
        ):
            token, task = first_steps(client)
            writers.wait_for_writes(200)
            promised = set(writers.acknowledged)
            run_commands(database, tmp_path)
            writers.wait_for_writes(50)
        restored = database.url_of("taskflow_restored")
        kept, copied = (json.loads(run_sql(url, TASKS)) for url in (database.url, restored))
        assert copied.items() <= kept.items()
        assert len(copied) < len(kept)
        titles = set(run_sql(restored, "SELECT array_agg(title) FROM tasks"))
        assert promised <= titles
        assert run_sql(restored, "SELECT count(*) FROM pg_stats WHERE tablename = 'tasks'") > 0
        # Of one moment: with each key goes the task that it is for.
        assert run_sql(restored, "SELECT count(*) FROM idempotency_keys") > 0
        assert run_sql(restored, KEYS_WITHOUT_TASKS) == 0

        highest = run_sql(restored, "SELECT max(id) FROM tasks")
        with running_service(restored) as service, blocking_client(service.base_url) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            assert client.get(f"/api/v1/tasks/{task['id']}").json()["data"] == task
            found = client.get("/api/v1/tasks", params={"q": "cafe"}).json()["data"]["tasks"]
            assert found == [task]
            again = create(client)
            assert again.headers["Idempotent-Replayed"] == "true"
            assert again.json()["data"] == task
            new = client.post("/api/v1/tasks", json={"title": "New"}).json()["data"]
            assert new["id"] > highest


def first_steps(client: Any) -> tuple[str, dict[str, Any]]:
    """An account by hand, whose login and task are to be there afterwards."""
    body = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    assert client.post("/api/v1/users", json=body).status_code == 201
    form = {"grant_type": "password", "username": "ada", "password": PASSWORD}
    token: str = client.post("/api/v1/auth/token", data=form).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    task: dict[str, Any] = create(client).json()["data"]
    return token, task


def create(client: Any) -> Any:
    body = {"title": "Meet at the Café", "tags": ["people"], "due_on": "2030-05-02"}
    headers = {"Idempotency-Key": "8e03978e-40d5"}
    return client.post("/api/v1/tasks", json=body, headers=headers)
