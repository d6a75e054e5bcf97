"""A process that serves: uvicorn's server, on a socket that others may serve too."""

import signal
import socket
import sys
from functools import partial

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.server.acceptor import Acceptor, Shares
from app.server.protocol import HTTPProtocol
from app.server.signals import HELD_SIGNALS

log = structlog.stdlib.get_logger("taskflow.server")


class Server(uvicorn.Server):
    """Uvicorn's, but takes its share of the connections, and ends the application when hurried."""

    def __init__(self, config: uvicorn.Config, shares: Shares, *, seat: int) -> None:
        super().__init__(config)
        self._shares = shares
        self._seat = seat

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        # Uvicorn has set it, but without a socket nobody listens yet.
        self.started = False
        assert sockets is not None  # noqa: S101 - whoever runs it has bound the address
        (listening,) = sockets
        protocol = partial(
            HTTPProtocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._acceptor = Acceptor(
            listening,
            protocol,
            connections=self.server_state.connections,
            shares=self._shares,
            seat=self._seat,
        )
        try:
            self._acceptor.start(self.config.backlog)
        except OSError as error:
            # Another was started at the same time, and was faster. The reason says it all.
            log.error("cannot listen", port=self.config.port, reason=error.strerror)  # noqa: TRY400
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self.started = True

    async def main_loop(self) -> None:
        # Those that were held back come now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
        await super().main_loop()

    async def on_tick(self, counter: int) -> bool:
        self._acceptor.tell()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._acceptor.close()
        await super().shutdown(sockets)
        if self.force_exit:
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()
