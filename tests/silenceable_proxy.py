"""A server that falls silent, as seen from a client."""

import asyncio
import contextlib
from typing import Self


class SilenceableProxy:
    """Passes bytes on to a server until it is told to be `silent`: then it swallows them.

    When `deaf` it swallows the server's alone, and sets `swallowed` once some have come.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.silent = False
        self.deaf = False
        self.swallowed = asyncio.Event()
        self.port = 0
        # A task that waits for a stream is held by nothing but its maker.
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            with contextlib.closing(there_writer):
                await asyncio.gather(
                    self._pass_on(reader, there_writer),
                    self._pass_on(there_reader, writer, are_answers=True),
                )

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        are_answers: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.deaf and are_answers:
                    self.swallowed.set()
                elif not self.silent:
                    writer.write(data)
                    await writer.drain()
        writer.close()
