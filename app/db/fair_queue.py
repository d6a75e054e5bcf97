"""The idle connections of a pool, given out in the order in which they were asked for."""

import asyncio
from collections import deque
from typing import Any

from sqlalchemy.util.concurrency import await_
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty


class FairQueue(AsyncAdaptedQueue[Any]):
    """SQLAlchemy's, but that what comes back goes to whoever has waited longest.

    There it is taken by whoever asks next, while those who wait are still being woken: at
    saturation some would wait until they give up.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's own
        super().__init__(maxsize, use_lifo)
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def put_nowait(self, item: Any) -> None:  # noqa: ANN401 - whatever the pool keeps
        while self._waiting:
            longest = self._waiting.popleft()
            if not longest.done():
                longest.set_result(item)
                return
        super().put_nowait(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, FBT001, FBT002 - the same
        if not block or not self.empty():
            return self.get_nowait()
        return await_(self._get_in_turn(timeout))

    async def _get_in_turn(self, timeout: float | None) -> Any:  # noqa: ANN401, ASYNC109 - the same
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                return await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                # It came just when nobody wanted it any more.
                self.put_nowait(turn.result())
            if isinstance(error, TimeoutError):
                raise Empty from None
            raise
