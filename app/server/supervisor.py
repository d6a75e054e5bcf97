"""Looks after workers: several processes that serve, on one socket."""

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import resource_tracker

import structlog
import uvicorn
from uvicorn.supervisors import Multiprocess, multiprocess

from app.server.acceptor import SEATS, Shares
from app.server.process import Server
from app.server.signals import HELD_SIGNALS, NOT_READY_SIGNAL

# How often the supervisor looks for another signal while it waits.
POLL_SECONDS = 0.1
# A worker has so much longer to end than its requests have to finish: it closes its connections,
# and sends the last of its traces.
KILL_AFTER_SECONDS = 6
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = structlog.stdlib.get_logger("taskflow.server")


class Worker(multiprocess.Process):
    """A process that serves, and lets the others know how many connections it has."""

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        shares: Shares,
        *,
        seat: int,
        signals: list[int],
    ) -> None:
        super().__init__(config, sockets)
        self.seat = seat
        self._shares = shares
        self._signals = signals
        self._asked_at: float | None = None
        self._is_late_at: float | None = None

    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = Server(self.config, self._shares, seat=self.seat)
        return self._server

    def start(self) -> None:
        """Start it with signals held back, which it heeds as soon as it serves.

        What comes before, while it still imports modules, would kill it.
        """
        # It lets signals through once more when it starts, and every worker needs it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        # Uvicorn raises it once more when it has shut down.
        signal.signal(signal.SIGTERM, lambda *_: None)
        super().target(sockets)

    def is_alive(self, timeout: float = 5) -> bool:
        """Whether it runs, and has answered within so many seconds when it was asked last.

        Uvicorn would wait for the answer, and neither heed signals nor look at others meanwhile.
        """
        now = time.monotonic()
        with suppress(OSError, EOFError):
            while self.parent_conn.poll():
                self.parent_conn.recv()
                self._asked_at = None
            if self._asked_at is None:
                self._asked_at = now
                self.parent_conn.send(b"ping")
        is_late = self._asked_at is not None and now - self._asked_at > timeout
        return self.process.is_alive() and not is_late

    def terminate(self) -> None:
        has = self.config.timeout_graceful_shutdown or 0
        self._is_late_at = time.monotonic() + has + KILL_AFTER_SECONDS
        super().terminate()

    def join(self) -> None:
        """Wait until it has ended, or a signal to end has come."""
        while not self.has_ended() and not any(one in END_SIGNALS for one in self._signals):
            pass

    def has_ended(self) -> bool:
        """Whether it has, after a moment; one that hangs is killed when it has had its time."""
        self.process.join(POLL_SECONDS)
        is_late = self._is_late_at is not None and time.monotonic() > self._is_late_at
        if is_late and self.process.is_alive():
            log.error("worker killed", pid=self.pid)
            self._is_late_at = None
            self.process.kill()
        return not self.process.is_alive()


class Supervisor(Multiprocess):
    """Runs workers on one socket, starts those anew that end, and ends with them.

    - SIGHUP replaces them one after the other: a new one is up before an old one ends. A signal to
      end that comes meanwhile stops that.
    - SIGTERM makes readiness fail for `shutdown_delay` seconds, then lets requests finish; SIGINT
      does without the delay.
    - A further signal to end hurries, as it does a single process.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], *, shutdown_delay: float
    ) -> None:
        super().__init__(config, sockets)
        self._shutdown_delay = shutdown_delay
        self._is_replacing = False
        for number in END_SIGNALS:
            signal.signal(number, self._note)
        self._shares = Shares()
        # Those that serve, those that start, and those that others took the place of.
        self._workers: list[Worker] = []
        # Uvicorn lets nobody choose the class.
        multiprocess.Process = self._worker  # type: ignore[misc,assignment]  # called, not derived

    def _worker(self, config: uvicorn.Config, sockets: list[socket.socket]) -> Worker:
        seat = self._free_seats()[0]
        worker = Worker(config, sockets, self._shares, seat=seat, signals=self.signal_queue)
        self._workers = [one for one in self._workers if one.process.is_alive()] + [worker]
        return worker

    def _free_seats(self) -> list[int]:
        taken = {worker.seat for worker in self._workers if worker.process.is_alive()}
        free = [seat for seat in range(SEATS) if seat not in taken]
        for seat in free:
            # A killed one has not left it.
            self._shares.leave(seat)
        return free

    def _note(self, number: int, _: object) -> None:
        self.signal_queue.append(number)
        if self._is_replacing:
            self.should_exit.set()

    def handle_signals(self) -> None:
        # Those that end go before those that replace, and empty the queue at times.
        while self.signal_queue:
            number = min(self.signal_queue, key=lambda one: one not in END_SIGNALS)
            self.signal_queue.remove(number)
            name = signal.Signals(number).name.removeprefix("SIG").lower()
            getattr(self, f"handle_{name}", lambda: None)()

    def restart_all(self) -> None:
        if self.should_exit.is_set():
            return
        # While it waits for workers, uvicorn's looks at this event alone. The signal itself is
        # handled afterwards, and may have a delay.
        self._is_replacing = True
        try:
            super().restart_all()
        finally:
            self._is_replacing = False
            self.should_exit.clear()
            self._free_seats()

    def handle_term(self) -> None:
        self._send(NOT_READY_SIGNAL, self.processes)
        waited = 0.0
        while waited < self._shutdown_delay and not self._is_hurried():
            self.should_exit.wait(POLL_SECONDS)
            waited += POLL_SECONDS
        super().handle_term()

    def terminate_all(self) -> None:
        # Else the kernel would go on to take connections that no worker accepts any more.
        for listening in self.sockets:
            listening.close()
        super().terminate_all()

    def join_all(self) -> None:
        for worker in self._workers:
            while not worker.has_ended():
                if self._is_hurried():
                    self._send(signal.SIGTERM, self._workers)

    def _is_hurried(self) -> bool:
        """Whether another signal to end has come.

        Those that ask for something else come too late: a terminal tells of a new size by one.
        """
        hurries = False
        while self.signal_queue:
            hurries |= self.signal_queue.pop() in END_SIGNALS
        return hurries

    def _send(self, number: signal.Signals, workers: Sequence[multiprocess.Process]) -> None:
        for worker in workers:
            if worker.pid is not None and worker.process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)
