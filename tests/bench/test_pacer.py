"""What the pacer measures, on a server that stalls when it is told to."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.bench.load import LoadFailed, Pacer

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.contextmanager
def server(answer: bytes, *, stall: tuple[int, float] = (0, 0)) -> Iterator[int]:
    """Answers one request after another; before that of a given number it stalls for seconds."""
    turn = threading.Lock()
    served = 0

    def serve(connection: socket.socket) -> None:
        nonlocal served
        with connection:
            while connection.recv(1_000):
                with turn:
                    served += 1
                    if served == stall[0]:
                        threading.Event().wait(stall[1])
                connection.sendall(answer)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        threading.Thread(target=accept, args=[listener], daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_it_sends_at_the_rate_that_it_is_told() -> None:
    with server(ANSWER) as port:
        started = time.perf_counter()
        paced = Pacer(port, [REQUEST]).run(rate=300, seconds=0.5)
        assert time.perf_counter() - started >= 0.4
    assert 200 < paced.per_second < 400


def test_a_stall_is_felt_by_all_that_were_due_meanwhile() -> None:
    with server(ANSWER, stall=(20, 0.3)) as port:
        paced = Pacer(port, [REQUEST]).run(rate=200, seconds=0.5)
    # One in twenty requests or more waited; whoever sends the next only after an answer to the one
    # before would have seen one in a hundred.
    assert paced.p99 > 200
    assert paced.p50 > 10


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Overloaded\r\nContent-Length: 0\r\n\r\n", b""],
    ids=["refused", "silent"],
)
def test_anything_but_a_2xx_fails(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.load.PATIENCE_SECONDS", 0.2)
    with server(answer) as port, pytest.raises(LoadFailed):
        Pacer(port, [REQUEST]).run(rate=100, seconds=0.1)
