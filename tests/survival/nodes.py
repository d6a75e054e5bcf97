"""Two nodes behind a proxy, which can be killed and restarted under clients."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Self

from tests.support import RunningService, running_service
from tests.survival.cluster import free_port
from tests.survival.writers import Writers

Proxy = Callable[[Sequence[int]], AbstractContextManager[str]]
# One client asks more than a client may, and the proxies run on this machine.
ENVIRONMENT = {"RATE_LIMIT_API": "", "TRUSTED_PROXIES": "127.0.0.1"}


class Nodes:
    """Two nodes of a service on ports of their own, which can be ended and started again."""

    def __init__(self, database_url: str, **environment: str) -> None:
        self._database_url = database_url
        self._environment = environment
        self.ports = [free_port(), free_port()]
        self.services: list[RunningService] = []
        self._stacks = [ExitStack(), ExitStack()]

    def __enter__(self) -> Self:
        self.services = [self._started(0), self._started(1)]
        return self

    def __exit__(self, *_: object) -> None:
        for stack in self._stacks:
            stack.close()

    def _started(self, index: int) -> RunningService:
        service = running_service(self._database_url, self.ports[index], **self._environment)
        return self._stacks[index].enter_context(service)

    def restart(self, index: int) -> None:
        """As a rollout does it: SIGTERM, the end, and the new one until it is ready."""
        self._stacks[index].close()
        self.services[index] = self._started(index)

    def kill(self, index: int) -> None:
        self.services[index].stop(signal.SIGKILL)


@contextmanager
def behind(proxy: Proxy, database_url: str, **environment: str) -> Iterator[tuple[str, Nodes]]:
    """Two nodes and a proxy before them."""
    with Nodes(database_url, **ENVIRONMENT | environment) as nodes, proxy(nodes.ports) as base_url:
        yield base_url, nodes


def failures_of(writers: Writers) -> Counter[int]:
    return Counter(answer.status for answer in writers.answers if not 200 <= answer.status < 300)
