"""What the tests of the development database have in common."""

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import asyncpg

from app.db import embedded

IS_ROOT = os.geteuid() == 0


PATIENCE = 20.0  # Seconds.


# A process that holds the database of the folder in its second argument until its standard input
# closes, and prints one JSON object for each thing that happens. The first argument is code to run
# before that.
OWNER = """
import json, os, signal, sys
from pathlib import Path
from app.db import embedded

def say(**what):
    print(json.dumps(what), flush=True)

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
# Whatever started the tests in the background has made them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
exec(sys.argv[1])
data_dir = Path(sys.argv[2])
with embedded.embedded_database(data_dir, notify=lambda text: say(notice=text)) as database:
    try:
        say(url=database.url, shared_with=database.shared_with)
        sys.stdin.read()
    except KeyboardInterrupt:
        say(interrupted=True)
        sys.stdin.read()
"""


OUTLIVED = "embedded.programs._die_with_us = lambda number: None"


def run_sql(url: str, sql: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    # A loop factory keeps the Runner from unsetting the event loop of the tests around.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(run())


def eventually(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.02)


def command_lines() -> list[str]:
    if not Path("/proc/self/cmdline").exists():
        ps = ["ps", "-ww", "-A", "-o", "command="]
        return subprocess.check_output(ps, text=True).splitlines()
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_text(errors="replace").replace("\0", " "))
    return lines


def servers_of(data_dir: Path) -> list[str]:
    # For a moment after its birth, a child of the server has the server's command line too.
    return [line for line in command_lines() if f"-D {data_dir}/data " in line]


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "data" / "postmaster.pid").read_text().splitlines()[0])


class Owner:
    """A process that runs OWNER; it is killed at the end of the `with`, if it still lives."""

    def __init__(self, data_dir: Path, before: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, before, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=Path(embedded.__file__).parents[2],
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)

    def says(self, key: str) -> Any:
        assert self.process.stdout is not None
        while True:
            assert select.select([self.process.stdout], [], [], PATIENCE)[0]
            line = self.process.stdout.readline()
            assert line, f"The owner ended before it said {key}."
            if key in (what := json.loads(line)):
                return what

    def is_ready(self) -> Any:
        return self.says("url")

    def ends(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE)
