"""A connection to the service, below HTTP's own words."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

HEAD = b"GET /health HTTP/1.1\r\nHost: x\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


class Connection:
    """A socket to the service, whose answers come as they are on the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self) -> tuple[bytes, bytes]:
        """The head and the body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All that comes until the service closes the connection."""
        async with asyncio.timeout(20):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def connected(
    base_url: str, *, receive_buffer: int | None = None
) -> AsyncIterator[Connection]:
    """A connection, for which the kernel keeps so many bytes that are not read yet."""
    address = urlsplit(base_url)
    own = socket.socket()
    if receive_buffer is not None:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    own.settimeout(0)
    await asyncio.get_running_loop().sock_connect(own, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=own)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def at_a_pace(seconds: float) -> None:
    """Let this much time pass: a client's pace is what some tests are about."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)
