"""What PostgreSQL does for a list: the plans of the service's own prepared statements."""

import re
import statistics
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs

import asyncpg

from app.accounts.credentials import SCOPES, Actor, values_of_actor
from app.db.statements import Statement
from app.tasks import queries
from app.tasks.filters import given, values_by_parameter, without_values
from app.tasks.schemas import TaskQuery
from tests.bench.data import Person

_REPEATS = 5
_MANY = {"status", "priority", "tag"}
_NODE = re.compile(r"^ *(?:->  )?([A-Z][\w -]*?)(?: (?:using|on) .*?)?  \(cost=")
_ACTUAL = re.compile(r"actual time=\S+ rows=([\d.]+) loops=(\d+)")
_REMOVED = re.compile(r"Rows Removed by (?:Filter|Index Recheck): (\d+)")


@dataclass(frozen=True)
class Plan:
    """What was done for a statement, as PostgreSQL tells it, and how long it took."""

    text: str
    milliseconds: float

    def _nodes(self) -> Iterator[tuple[str, str, float]]:
        """Each node's name, its line, and how many rows came out of it."""
        for line in self.text.splitlines():
            node, actual = _NODE.match(line), _ACTUAL.search(line)
            if node:
                rows = float(actual[1]) * int(actual[2]) if actual else 0.0
                yield node[1], line, rows

    @property
    def rows_read(self) -> int:
        """The rows of tasks that were looked at, in the table or an index, at most in one node."""
        # What is above the first line on tasks is the look at the credential.
        on_tasks = self.text[self.text.find(" on tasks") :]
        removed = sum(int(number) for number in _REMOVED.findall(on_tasks))
        return round(max((rows for _, _, rows in self._nodes()), default=0) + removed)

    def faults(self, page: int) -> list[str]:
        """What no list should need: to read the whole table, or to sort more than a page."""
        nodes = list(self._nodes())
        found = [
            line.strip()
            for name, line, _ in nodes
            if name.endswith("Seq Scan") and "on tasks" in line
        ]
        for (name, _, _), (_, _, rows) in pairwise(nodes):
            if name == "Sort" and rows > page:
                found.append(f"Sort of {rows:,.0f} rows")
        return found


def _actor(person: Person, credential_id: int) -> Actor:
    return Actor(user_id=person.id, credential_id=credential_id, scopes=frozenset(SCOPES))


def statement_of(parameters: str, actor: Actor) -> tuple[Statement, Sequence[Any]]:
    """What the service sends for a list with these query parameters, and its values."""
    pairs = parse_qs(parameters)
    query = TaskQuery.model_validate(
        {name: values if name in _MANY else values[0] for name, values in pairs.items()}
    )
    filters = given(query)
    page = queries.Page(
        queries.Listed(without_values(filters)),
        query.sort,
        query.per_page,
        counted=query.count,
        offset=query.offset > 0,
    )
    values = {**values_by_parameter(filters), **values_of_actor(actor), "offset": query.offset}
    statement = queries.select_page(page)
    return statement, statement.arguments(values)


class Explainer:
    """A connection on which every statement tells its plan."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self._said: list[str] = []
        connection.add_log_listener(lambda _, message: self._said.append(str(message.message)))

    async def plan(self, parameters: str, person: Person) -> Plan:
        """The plan of a list's statement; the time is the median of a few executions.

        It is the plan for these values, or that for all values, whichever the service uses.
        """
        credential = await self._connection.fetchval(
            "SELECT id FROM credentials WHERE user_id = $1", person.id
        )
        statement, arguments = statement_of(parameters, _actor(person, credential))
        mode = "custom" if statement.planned_anew else "generic"
        await self._connection.execute(f"SET plan_cache_mode = force_{mode}_plan")
        plans = []
        for _ in range(_REPEATS):
            self._said.clear()
            await self._connection.fetch(statement.sql, *arguments)
            # The driver has asked for types before, perhaps.
            said = next(one for one in reversed(self._said) if "\nLimit" in one)
            duration = float(said.split()[1])
            plans.append(Plan(said[said.index("\nLimit") + 1 :], duration))
        middle = statistics.median(plan.milliseconds for plan in plans)
        return Plan(plans[-1].text, round(middle, 3))


@asynccontextmanager
async def explainer(url: str) -> AsyncIterator[Explainer]:
    connection = await asyncpg.connect(url)
    try:
        for name, value in {
            "auto_explain.log_min_duration": "0",
            "auto_explain.log_analyze": "on",
            "auto_explain.log_buffers": "on",
            "auto_explain.log_level": "notice",
        }.items():
            with suppress(asyncpg.DuplicateObjectError):
                await connection.execute("LOAD 'auto_explain'")
            await connection.execute(f"SET {name} = '{value}'")
        yield Explainer(connection)
    finally:
        await connection.close()
