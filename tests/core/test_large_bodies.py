"""What takes long to read, to validate or to run keeps nobody else waiting."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.core import routing
from app.core.strict_json import read_json
from app.tasks.batch import service, workspace
from app.tasks.batch.documents import stored_size
from app.tasks.batch.schemas import parse_operation
from tests.support import Account
from tests.tasks.batches import create, results, run

WAITS_SECONDS = 5


class Turn:
    """Lets a function begin its work only once another request was answered meanwhile."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.waited_in_vain = False

    def __call__(self, *arguments: Any) -> Any:
        self.has_begun.set()
        if not self.may_end.wait(WAITS_SECONDS):
            self.waited_in_vain = True
            self.may_end.set()
        return self._work(*arguments)

    async def pass_on_after(self, client: httpx.AsyncClient) -> None:
        """Wait for the work to begin, ask for something else, and let the work go on."""
        assert await asyncio.to_thread(self.has_begun.wait, WAITS_SECONDS)
        assert (await client.get("/health")).status_code == 200
        self.may_end.set()


async def test_others_are_answered_while_a_large_body_is_read(
    alice: Account, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Turn(read_json)
    monkeypatch.setattr(routing, "read_json", turn)
    body = {"title": "x" * routing.READ_AT_ONCE_BYTES}
    writing = asyncio.create_task(alice.client.post("/api/v1/tasks", json=body))
    await turn.pass_on_after(client)

    assert (await writing).status_code == 400
    assert not turn.waited_in_vain


async def test_others_are_answered_while_the_operations_of_a_batch_are_validated(
    alice: Account, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Turn(parse_operation)
    monkeypatch.setattr(service, "parse_operation", turn)
    writing = asyncio.create_task(run(alice, create(title="x")))
    await turn.pass_on_after(client)

    assert len(results(await writing)) == 1
    assert not turn.waited_in_vain


async def test_others_are_answered_while_the_operations_of_a_batch_run(
    alice: Account, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Turn(stored_size)
    monkeypatch.setattr(workspace, "stored_size", turn)
    writing = asyncio.create_task(run(alice, create(title="x")))
    await turn.pass_on_after(client)

    assert len(results(await writing)) == 1
    assert not turn.waited_in_vain
