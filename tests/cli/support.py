"""Commands run in the process of the tests, from their arguments to their exit code."""

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import asyncpg

from app.cli import main
from tests.support import CLEAN_ENVIRONMENT, SERVICE_DEFAULTS, as_environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]
AddUsers = Callable[..., None]
OtherWork = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
DEADLINE_SECONDS = 60


def taskflow(
    *arguments: str, text: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in this process, from its arguments to its exit code."""
    told = {"ENVIRONMENT": "testing", "COLUMNS": "200"} | as_environment(SERVICE_DEFAULTS)
    environment = CLEAN_ENVIRONMENT | told | environment
    output, errors, code = io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        # The logs of the tests go on as they are.
        mock.patch("app.cli.common.configure_logging"),
        mock.patch.object(sys, "argv", ["taskflow", *arguments]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):
                errors.write(end.code + "\n")
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    output.seek(0)
    return subprocess.CompletedProcess(arguments, code, output.read(), errors.getvalue())


async def wait_for_a_waiter(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Until another transaction waits for the one that the connection is in."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_sleep(0.02), pg_locks"
            " WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"
        ):
            pass


@contextlib.contextmanager
def another_writer(work: OtherWork) -> Iterator[None]:
    """Does the work in a thread of its own, since a command needs the main one.

    The block begins when the work calls what it is given, and ends when the work has ended.
    """
    has_begun = threading.Event()
    with ThreadPoolExecutor(1) as elsewhere:
        done = elsewhere.submit(lambda: asyncio.run(work(has_begun.set)))
        assert has_begun.wait(DEADLINE_SECONDS)
        yield
        done.result()


@contextlib.contextmanager
def until_waited_for(database_url: str, first: str, then: str = "") -> Iterator[None]:
    """A transaction that runs the first statement, and the other when it is waited for."""

    async def work(begun: Callable[[], None]) -> None:
        connection = await asyncpg.connect(database_url)
        try:
            async with connection.transaction():
                await connection.execute(first)
                begun()
                await wait_for_a_waiter(connection)
                if then:
                    await connection.execute(then)
        finally:
            await connection.close()

    with another_writer(work):
        yield
