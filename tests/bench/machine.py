"""What the figures were measured on."""

import asyncio
import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from tests.bench.database import SETTINGS
from tests.bench.sides import PEER_LOCK
from tests.sdk.tools import ROOT

_OURS = ("fastapi", "pydantic", "sqlalchemy", "asyncpg", "uvicorn", "starlette", "uvloop")
_PEERS = ("flask", "flask-sqlalchemy", "gunicorn", "marshmallow", "psycopg2-binary", "sqlalchemy")
# Of the cores; above it something else is at work.
BUSY_LOAD = 0.25


async def _server_version(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def load_average() -> float:
    """How many processes have wanted to run on average in the last minute."""
    return os.getloadavg()[0]


def is_busy(load: float) -> bool:
    return load > BUSY_LOAD * (os.cpu_count() or 1)


def describe(database_url: str, load_at_start: float) -> dict[str, Any]:
    """The machine, the versions of everything that takes part, and the date."""
    lock = PEER_LOCK.read_text()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "load_average_at_start": round(load_at_start, 2),
        "busy": is_busy(load_at_start),
        "python": platform.python_version(),
        "postgresql": asyncio.run(_server_version(database_url)),
        "postgresql_settings": SETTINGS,
        "packages": {name: importlib.metadata.version(name) for name in _OURS},
        "packages_of_the_peer": {
            name: found[1]
            for name in _PEERS
            if (found := re.search(rf"^{name}==(\S+)", lock, re.MULTILINE))
        },
    }
