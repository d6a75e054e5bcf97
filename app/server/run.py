"""Uvicorn as `taskflow serve` runs it: in this process, or in workers that it looks after."""

import signal
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.server.acceptor import Shares
from app.server.process import Server
from app.server.protocol import HTTPProtocol
from app.server.supervisor import Supervisor

# Requests that are under way have this long. What Docker and others wait before SIGKILL must be
# longer than this and SHUTDOWN_DELAY together.
GRACEFUL_SHUTDOWN_SECONDS = 8
# Uvicorn replaces a worker that says nothing for this long; on a busy machine five seconds, its
# default, are not enough to start, and it would replace workers without end.
WORKER_START_SECONDS = 60
SERVER_OPTIONS: dict[str, Any] = {
    "http": HTTPProtocol,
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    # Longer than clients and load balancers keep an idle connection, which is a minute at most as a
    # rule: whoever closes first may meet a request that is on its way.
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": GRACEFUL_SHUTDOWN_SECONDS,
    "timeout_worker_healthcheck": WORKER_START_SECONDS,
    # Connections that come faster than they are taken wait; the kernel cuts this to its somaxconn.
    "backlog": 4096,
}


def run_server(app: str, *, host: str, port: int, workers: int, shutdown_delay: float) -> None:
    """Serve `app`, such as `package.module:name`, until a signal ends it.

    Exits with 3 if the application does not start.
    """
    config = uvicorn.Config(app, host=host, port=port, workers=workers, **SERVER_OPTIONS)
    sockets = [config.bind_socket()]
    if workers > 1:
        supervisor = Supervisor(config, sockets, shutdown_delay=shutdown_delay)
        supervisor.run()
        if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
            sys.exit(STARTUP_FAILURE)
        return
    server = Server(config, Shares(), seat=0)

    # When uvicorn has shut down, it raises the signals that it has caught once more. They have done
    # their work by then, and must not keep our caller from stopping the database.
    def end_unless_done(*_: object) -> None:
        if not server.started:
            sys.exit(0)

    signal.signal(signal.SIGTERM, end_unless_done)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
