"""The idle connections of a pool, given out in the order in which they were asked for."""

import asyncio
from collections import deque
from typing import Any

from sqlalchemy.util.concurrency import await_
from sqlalchemy.util.queue import Empty, Full, QueueCommon


class FairQueue(QueueCommon[Any]):
    """A queue for SQLAlchemy's pool that hands what comes back to whoever has waited longest.

    From SQLAlchemy's own queue it is taken by whoever asks next, while those who wait are still
    being woken: at saturation some would wait until they give up. Idle connections are used in
    turn, whatever `use_lifo` says.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's own
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._idle: deque[Any] = deque()
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def empty(self) -> bool:
        return not self._idle

    def qsize(self) -> int:
        return len(self._idle)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401, ARG002, FBT001, FBT002 - SQLAlchemy's own, which never waits here
        while self._waiting:
            longest = self._waiting.popleft()
            if not longest.done():
                longest.set_result(item)
                return
        if 0 < self.maxsize <= len(self._idle):
            raise Full
        self._idle.append(item)

    def get_nowait(self) -> Any:  # noqa: ANN401 - whatever the pool keeps
        if not self._idle:
            raise Empty
        return self._idle.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, FBT001, FBT002 - the same
        if self._idle or not block:
            return self.get_nowait()
        return await_(self.get_in_turn(timeout))

    async def get_in_turn(self, timeout: float | None) -> Any:  # noqa: ANN401, ASYNC109 - the same
        """The next that comes back once those who waited before have theirs.

        Raises `Empty` after `timeout` seconds.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                return await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                # It came just when nobody wanted it any more.
                self.put(turn.result())
            if isinstance(error, TimeoutError):
                raise Empty from None
            raise
