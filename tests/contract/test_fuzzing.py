"""Requests made out of the document, sensible and senseless, get answers that the document knows.

Schemathesis makes them: the document's examples, each bound from both sides, random ones, and walks
from operation to operation. All of its checks judge each answer of a service in its own process.
"""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.db.session import Database
from tests.conftest import NewDatabase
from tests.contract.conformance import REVIEWED
from tests.support import (
    CHEAP_HASH,
    Account,
    RunningService,
    make_account,
    running_service,
    service_settings,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Together more than 20,000 requests.
SEEDS = (1, 2, 3, 4, 5)
RANDOM_REQUESTS_PER_OPERATION = 75


@dataclass(frozen=True)
class Target:
    """A service in a process of its own that limits nothing, and a user of it."""

    service: RunningService
    account: Account

    def fuzz(self, *options: str | Path, document: Path = REVIEWED) -> int:
        """Run Schemathesis as the user and return how many requests it made.

        Fails with what is wrong with their answers.
        """
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
                *("--config-file", HERE / "schemathesis.toml"),
                *("run", document, "--url", self.service.base_url, "--generation-database=none"),
                # What it finds too slow is the machine.
                "--suppress-health-check=all",
                *options,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        cases = re.search(r"(\d+) generated", done.stdout)
        assert cases is not None, done.stdout
        return int(cases[1])

    @property
    def logged_in(self) -> str:
        return f"--header=Authorization: Bearer {self.account.token}"

    def statuses(self) -> list[int]:
        """Of every answer, by the service's own log."""
        lines = [json.loads(line) for line in self.service.output().splitlines()]
        return [line["status"] for line in lines if line["event"] == "request"]


@pytest.fixture
async def target(new_database: NewDatabase) -> AsyncIterator[Target]:
    url = new_database()
    limits = ("API", "LOGIN", "LOGIN_ADDRESS", "REGISTRATION")
    unlimited = {f"RATE_LIMIT_{name}": "" for name in limits}
    with running_service(url, LOG_FORMAT="json", **unlimited) as service:
        database = Database(service_settings(url))
        account = await make_account(database, service.base_url, password_hash=CHEAP_HASH)
        yield Target(service, account)
        await account.client.aclose()
        await database.close()


def test_a_few_hundred_requests_get_what_the_document_says(target: Target) -> None:
    # All phases of all operations would take a minute of this machine's time.
    seed = "--seed=1"
    wide = ("--phases=examples,stateful", "--max-examples=2", seed, "--no-shrink")
    deep = ("--phases=coverage,fuzzing", "--max-examples=2", seed, "--no-shrink")

    made = target.fuzz(*wide, target.logged_in)
    made += target.fuzz(*deep, *only("read_task", "list_trash"), target.logged_in)
    made += target.fuzz(*deep, *only("create_user", "read_me"))

    statuses = target.statuses()
    assert len(statuses) >= made
    assert {200, 201, 400, 401, 404} <= set(statuses)
    assert max(statuses) < 500


def only(*operations: str) -> list[str]:
    return [f"--include-operation-id={operation}" for operation in operations]


@pytest.mark.endurance
def test_thousands_of_requests_get_what_the_document_says(target: Target) -> None:
    many = f"--max-examples={RANDOM_REQUESTS_PER_OPERATION}"
    made = 0
    for seed in SEEDS:
        made += target.fuzz(many, f"--seed={seed}", target.logged_in)
        made += target.fuzz("--max-examples=10", f"--seed={seed}", "--phases=examples,fuzzing")
        print(f"seed {seed}: {made} requests so far")  # noqa: T201 - it takes many minutes

    statuses = target.statuses()
    assert made >= 20_000
    assert len(statuses) >= made
    assert max(statuses) < 500


def test_a_lie_of_the_document_is_found(target: Target, tmp_path: Path) -> None:
    document = json.loads(REVIEWED.read_text())
    document["components"]["schemas"]["Liveness"]["required"].append("uptime")
    lying = tmp_path / "openapi.json"
    lying.write_text(json.dumps(document))
    liveness = (*only("read_liveness"), "--phases=fuzzing", "--max-examples=1")

    assert target.fuzz(*liveness) > 0
    with pytest.raises(AssertionError, match='"uptime" is a required property'):
        target.fuzz(*liveness, document=lying)
