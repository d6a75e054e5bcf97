"""Uvicorn as `taskflow serve` runs it: in this process, or in workers that it looks after."""

import os
import signal
import socket
import sys
from contextlib import suppress

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from app.core.lifecycle import NOT_READY_SIGNAL

# libuv accepts one connection of a listening socket in a turn of its loop. Under load a turn takes
# tens of milliseconds, and new clients would wait for seconds; of so many copies of the socket it
# accepts as many. Of many more, one worker would take most connections that come together, and the
# others would have nothing to do.
ACCEPTED_AT_ONCE = 4
# How often it looks whether another signal has come.
POLL_SECONDS = 0.1


def run_server(config: uvicorn.Config, *, shutdown_delay: float) -> None:
    """Serve until a signal ends it. Exits with 3 if the application does not start."""
    bound = config.bind_socket()
    sockets = [bound, *(bound.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
    if config.workers > 1:
        Supervisor(config, sockets, shutdown_delay=shutdown_delay).run()
        return
    server = Server(config)

    # Uvicorn takes signals while it runs, and sends itself those again that it got: they have done
    # their work then, and whoever called us has something to stop.
    def end_unless_done(*_: object) -> None:
        if not server.started:
            sys.exit(0)

    signal.signal(signal.SIGTERM, end_unless_done)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class Server(uvicorn.Server):
    """Uvicorn's, but that one that is hurried ends the application too."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()


class Supervisor(Multiprocess):
    """Runs workers on one socket, starts those anew that end, and ends with them.

    - SIGHUP replaces them one after the other: a new one is up before an old one ends.
    - SIGTERM makes readiness fail for `shutdown_delay` seconds, then lets requests finish.
    - A further signal hurries, as it does a single process.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], *, shutdown_delay: float
    ) -> None:
        super().__init__(config, sockets)
        self._shutdown_delay = shutdown_delay

    def handle_term(self) -> None:
        self._send(NOT_READY_SIGNAL)
        waited = 0.0
        while waited < self._shutdown_delay and not self.signal_queue:
            self.should_exit.wait(POLL_SECONDS)
            waited += POLL_SECONDS
        # What hurries has done its work when the delay ends.
        self.signal_queue.clear()
        super().handle_term()

    def join_all(self) -> None:
        for process in self.processes:
            while process.process.is_alive():
                process.process.join(POLL_SECONDS)
                if self.signal_queue:
                    self.signal_queue.clear()
                    self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.pid is not None and process.process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)
