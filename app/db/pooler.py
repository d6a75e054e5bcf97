"""Connections through a pooler such as PgBouncer, which lends a server for a transaction at a time.

What a session keeps (prepared statements, settings) stays with whichever server came last. Without
a cache of statements asyncpg names none, and parses, binds and executes them before the one Sync at
which the pooler may lend the server to somebody else.
"""

from collections import OrderedDict
from typing import Any

from app.db.instrumentation import MeasuredConnection, MeasuredStatement

# Those that a pooler gives to each server that it lends.
SETTINGS_THAT_POOLERS_PASS_ON = ("application_name", "timezone")
# As many as asyncpg itself keeps prepared.
MAXIMUM_DESCRIBED = 100


class PooledConnection(MeasuredConnection):
    """A connection whose statements hold for one transaction; needs `statement_cache_size=0`."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - asyncpg's own
        super().__init__(*args, **options)
        self._described: OrderedDict[str, MeasuredStatement] = OrderedDict()

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        """The rows of a statement, in one exchange once its types are known.

        asyncpg itself would ask for them each time, while it holds the server. What it has
        described it parses anew at each use, so that it needs nothing that a server keeps.
        """
        statement = self._described.pop(query, None)
        if statement is None:
            statement = await self.prepare(query)
            while len(self._described) >= MAXIMUM_DESCRIBED:
                self._described.popitem(last=False)
        rows = await statement.fetch(*args, **options)
        # Only what has succeeded: a migration may have changed the types.
        self._described[query] = statement
        return rows

    async def _introspect_types(self, *args: Any) -> Any:  # noqa: ANN401 - asyncpg's own
        # It switches the server's `jit` off and on again, which must be the same server's.
        is_outermost = not self.is_in_transaction()
        try:
            async with self.transaction():
                return await super()._introspect_types(*args)  # type: ignore[misc]  # not in its stubs
        except BaseException:
            # Where its beginning is cut short, what follows would be written into it.
            if is_outermost:
                self.terminate()
            raise
