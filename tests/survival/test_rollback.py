"""The code of the release before runs on the present schema, so that a release can be taken back.

Until there is a tag of a release, the present code stands for it: that shows only that the release
before could be got out of git and run.
"""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx
import pytest
from packaging.version import Version

from tests.conftest import NewDatabase
from tests.contract.conformance import others_answer
from tests.support import blocking_client, running_service

pytestmark = pytest.mark.survival

CHECKOUT = Path(__file__).parents[2]
PASSWORD = "zebra-crossing-at-noon-1"


def git(*arguments: str) -> str:
    program = shutil.which("git") or "git"
    return subprocess.check_output([program, "-C", str(CHECKOUT), *arguments], text=True).strip()


def release_before() -> str:
    """The tag of the newest release but for the one that this is; HEAD before the first."""
    here = git("tag", "--points-at", "HEAD").split()
    tags = [tag for tag in git("tag", "--list", "v*").split() if tag not in here]
    return max(tags, key=Version, default="HEAD")


@pytest.fixture
def its_code(tmp_path: Path) -> Path:
    archive = tmp_path / "release.tar"
    git("archive", f"--output={archive}", release_before(), "app", "alembic", "alembic.ini")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "release", filter="data")
    return tmp_path / "release"


def test_the_release_before_works_on_the_present_schema(
    new_database: NewDatabase, its_code: Path
) -> None:
    where = "import app; print(app.__file__)"
    imported = subprocess.check_output(
        [sys.executable, "-c", where], env={"PYTHONPATH": str(its_code)}, cwd=its_code, text=True
    )
    assert Path(imported.strip()).is_relative_to(its_code)
    with (
        running_service(new_database(), PYTHONPATH=str(its_code)) as service,
        others_answer(),
        blocking_client(service.base_url) as client,
    ):
        lead_through_a_story(client)
        output = service.output()

    assert "unhandled error" not in output
    assert "Traceback" not in output


def lead_through_a_story(client: httpx.Client) -> None:
    """Each kind of statement once: on accounts, credentials, tasks, keys, the trash."""
    account = {"username": "grace", "email": "grace@example.com", "password": PASSWORD}
    assert client.post("/api/v1/users", json=account).status_code == 201
    form = {"grant_type": "password", "username": "grace", "password": PASSWORD}
    token = client.post("/api/v1/auth/token", data=form).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    body = {"name": "machine", "scopes": ["tasks:read", "tasks:write"]}
    assert client.post("/api/v1/api-keys", json=body).status_code == 201

    fields = {"title": "Meet Ana at the Café", "tags": ["people"], "due_on": "2030-05-02"}
    key = {"Idempotency-Key": "8e03978e-40d5"}
    first, repeated = (client.post("/api/v1/tasks", json=fields, headers=key) for _ in range(2))
    assert first.status_code == repeated.status_code == 201
    path = f"/api/v1/tasks/{first.json()['data']['id']}"
    assert client.get(path).json()["data"] == first.json()["data"] == repeated.json()["data"]
    assert client.patch(path, json={"status": "completed"}).json()["data"]["version"] == 2
    external = client.put("/api/v1/tasks/external/crm-1", json={"title": "From elsewhere"})
    assert external.status_code == 201
    operations = [
        {"op": "create", "task": {"title": "Buy seeds"}},
        {"op": "update", "id": external.json()["data"]["id"], "changes": {"priority": "high"}},
    ]
    assert client.post("/api/v1/tasks/batch", json={"operations": operations}).status_code == 200

    found = client.get("/api/v1/tasks", params={"q": "cafe", "sort": "due"}).json()["data"]
    assert [task["title"] for task in found["tasks"]] == [fields["title"]]
    assert client.get("/api/v1/tasks/stats").json()["data"]["total"] == 3
    assert len(client.get("/api/v1/tasks/export").json()) == 3
    assert client.delete(path).status_code == 200
    assert client.get(path).status_code == 404
    assert client.post(f"{path}/restore").status_code == 200
    assert client.delete(path, params={"permanent": "true"}).status_code == 200
    assert client.post("/api/v1/users/me/close", json={"password": PASSWORD}).status_code == 200
