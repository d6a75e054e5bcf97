"""The signals that a process which serves is ended by."""

import asyncio
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from app.core.lifecycle import Lifecycle

# By this the process that looks after workers takes them out of readiness, all at once.
NOT_READY_SIGNAL = signal.SIGUSR1
# Those that a worker is started with blocked: a process that starts has no handlers yet.
HELD_SIGNALS = {signal.SIGINT, signal.SIGTERM, NOT_READY_SIGNAL}


@contextmanager
def signals_heeded(lifecycle: Lifecycle, *, shutdown_delay: float) -> Iterator[None]:
    """While the block runs, SIGTERM first makes readiness fail, and reaches the server later.

    For `shutdown_delay` seconds requests are still accepted, so that load balancers notice. A
    second signal hurries: it ends the delay, or what the server still waits for. A worker's end is
    delayed by the process that looks after it, for all workers at once; where that one was killed,
    its workers end too, and give the port free.
    """
    server = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(server):
        # The server has its own ways, as in tests, where it is a thread.
        yield
        return
    loop = asyncio.get_running_loop()
    parent = multiprocessing.parent_process()
    delay = shutdown_delay if parent is None else 0

    def end(number: int) -> None:
        if lifecycle.is_ending:
            # To uvicorn SIGINT is what hurries.
            number = signal.SIGINT
        lifecycle.is_ending = True
        server(number, None)

    def heed(number: int, _: object) -> None:
        if number == signal.SIGTERM and lifecycle.is_ready and delay:
            lifecycle.is_ready = False
            loop.call_soon_threadsafe(loop.call_later, delay, end_once)
        else:
            end(number)

    def end_once() -> None:
        if not lifecycle.is_ending:
            end(signal.SIGTERM)

    def take_out(_: int, __: object) -> None:
        lifecycle.is_ready = False

    # A terminal sends SIGINT to parent and worker, and the parent then sends SIGTERM.
    interrupt = heed if parent is None else signal.SIG_IGN
    handlers = {signal.SIGTERM: heed, signal.SIGINT: interrupt, NOT_READY_SIGNAL: take_out}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with _parent_watched(parent, end_once):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _parent_watched(parent: BaseProcess | None, on_end: Callable[[], None]) -> Iterator[None]:
    """While the block runs, call the function when the parent has ended."""
    if parent is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def tell() -> None:
        # It stays readable for good.
        loop.remove_reader(parent.sentinel)
        on_end()

    loop.add_reader(parent.sentinel, tell)
    try:
        yield
    finally:
        loop.remove_reader(parent.sentinel)
