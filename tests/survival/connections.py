"""Many open connections to one worker, each of them asked twice."""

import asyncio
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.db.session import Database
from tests.support import RunningService, make_account, running_service, service_settings

AT_ONCE = 50


@dataclass(frozen=True)
class Figures:
    """How many were answered, what they took of memory, and the slowest answer."""

    answered: int
    answered_again: int
    bytes_each: float
    slowest: float


def resident_bytes(service: RunningService) -> int:
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def many_connections(url: str, count: int) -> Figures:
    """Open so many to a service with one worker and its usual settings, and use each twice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The service is started under the usual limit, which it raises; then it is our turn.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        with running_service(url, RATE_LIMIT_API="") as service:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return await _ask_all(service, url, count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _ask_all(service: RunningService, url: str, count: int) -> Figures:
    database = Database(service_settings(url))
    account = await make_account(database, service.base_url)
    await database.close()
    await account.create_task()
    address = urlsplit(service.base_url)
    request = (
        f"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.token}\r\n\r\n"
    ).encode()
    turn = asyncio.Semaphore(AT_ONCE)
    slowest = 0.0
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect() -> None:
        async with turn:
            opened.append(await asyncio.open_connection(address.hostname, address.port))

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal slowest
        async with turn:
            asked = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            slowest = max(slowest, time.monotonic() - asked)
            return head.startswith(b"HTTP/1.1 200 ")

    async def ask_all() -> int:
        return sum(await asyncio.gather(*(ask(*connection) for connection in opened)))

    before = resident_bytes(service)
    await asyncio.gather(*(connect() for _ in range(count)))
    answered = await ask_all()
    again = await ask_all()
    taken = resident_bytes(service) - before
    for _, writer in opened:
        writer.close()
    await account.client.aclose()
    return Figures(answered, again, taken / count, slowest)
