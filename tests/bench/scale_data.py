"""Millions of tasks: one owner with very many, and others with a thousand each.

The words of titles and descriptions follow Zipf's law, the first of them being in two of three
tasks. The owners' tasks lie mixed on disk, in the order of their creation, as they would by daily
use; so do those of the smaller owner.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import asyncpg
from sqlalchemy.schema import CreateIndex, DropIndex

from app.db.statements import DIALECT
from app.tasks.models import Task
from tests.bench.data import Person, add_people

if TYPE_CHECKING:
    from sqlalchemy import Table

TABLE = cast("Table", Task.__table__)
LARGE = 1_000_000
SMALL = 1_000
VOCABULARY = 10_000
_SYLLABLES = [first + second for first in "bdfglmnrstv" for second in "ae"]
_CHUNK = 50_000
# One word of the vocabulary per syllable triple; the rank is drawn so that Zipf's law holds.
_WORD = "s[1 + r / 484 % 22] || s[1 + r / 22 % 22] || s[1 + r % 22]"
_WORDS = (
    f"SELECT string_agg({_WORD}, ' ') FROM (SELECT floor(power({VOCABULARY}, random()))::int AS r"
    " FROM generate_series(1, {number}) WHERE drawn.n > 0 OFFSET 0) AS ranks"
)
INSERT_TASKS = f"""
WITH syllables AS MATERIALIZED (SELECT $6::text[] AS s), drawn AS (
  SELECT n, random() AS a, random() AS b, random() AS c, random() AS d, random() AS e
  FROM generate_series($1::bigint, $2::bigint) AS n
), made AS (
  SELECT n, a, c, d, e,
    CASE WHEN n % $3 = 0 THEN ($4::bigint[])[1]
      ELSE ($4::bigint[])[2 + (n - n / $3) % (cardinality($4::bigint[]) - 1)] END AS owner_id,
    ({_WORDS.format(number=4)}) AS title,
    ({_WORDS.format(number=12)}) AS description,
    (ARRAY['pending', 'pending', 'in_progress', 'completed', 'completed', 'cancelled']
      )[1 + floor(a * 6)::int]::task_status AS status,
    (ARRAY['low', 'medium', 'medium', 'high', 'critical'])[1 + floor(b * 5)::int]::task_priority
      AS priority,
    ARRAY['tag' || floor(power(500, c))::int, 'at' || floor(power(100, d))::int] AS tags,
    now() - ($5 - n) * (interval '730 days' / $5) AS created_at,
    e * interval '60 days' AS later
  FROM drawn, syllables
)
INSERT INTO tasks (owner_id, title, title_key, description, status, priority, tags, due_at, due_on,
  external_id, metadata, completed_at, created_at, updated_at)
SELECT owner_id, title, title, description, status, priority, tags,
  CASE WHEN d < 0.4 THEN created_at + later END,
  CASE WHEN d > 0.8 THEN (created_at + later)::date END,
  CASE WHEN e < 0.3 THEN 'crm/' || n END,
  jsonb_build_object('project', 'P-' || floor(c * 900 + 100)::int),
  CASE status WHEN 'completed' THEN created_at + interval '1 day' END,
  created_at, least(now(), created_at + a * interval '30 days')
FROM made
"""


def word(rank: int) -> str:
    """A word by its rank among the words, the most frequent being 1."""
    return "".join(_SYLLABLES[rank // divisor % 22] for divisor in (484, 22, 1))


def random_word(chance: random.Random) -> str:
    """A word as often as it is in the texts."""
    return word(int(VOCABULARY ** chance.random()))


@dataclass(frozen=True)
class Owners:
    """The owner of very many tasks, and one of a thousand."""

    large: Person
    small: Person
    tasks_of_large: int
    tasks_of_small: int


async def _insert(
    url: str,
    chunks: Iterator[int],
    form: tuple[int, list[int], int],
    say: Callable[[str], None],
) -> None:
    connection = await asyncpg.connect(url)
    share, ids, rows = form
    try:
        for first in chunks:
            last = min(rows, first + _CHUNK - 1)
            await connection.execute("SELECT setseed($1)", first / (rows + 1))
            await connection.execute(INSERT_TASKS, first, last, share, ids, rows, _SYLLABLES)
            if last % (4 * _CHUNK) == 0:
                say(f"{last:10,} tasks")
    finally:
        await connection.close()


async def seed_at_scale(url: str, rows: int, say: Callable[[str], None]) -> Owners:
    """Fill a database that is empty but for its schema with `rows` tasks.

    One owner has a million of them, or half if there are fewer than two million.
    """
    share = max(2, rows // LARGE)
    others = max(1, (rows - rows // share) // SMALL)
    connection = await asyncpg.connect(url)
    try:
        people = await add_people(connection, 1 + others)
        ids = [person.id for person in people]
        indexes = sorted(TABLE.indexes, key=lambda index: str(index.name))
        for index in indexes:
            await connection.execute(str(DropIndex(index).compile(dialect=DIALECT)))
        chunks = iter(range(1, rows + 1, _CHUNK))
        await asyncio.gather(*(_insert(url, chunks, (share, ids, rows), say) for _ in range(2)))
        for index in indexes:
            await connection.execute(str(CreateIndex(index).compile(dialect=DIALECT)))
            say(f"{'':10} {index.name}")
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
        numbers = [
            await connection.fetchval("SELECT count(*) FROM tasks WHERE owner_id = $1", person.id)
            for person in people[:2]
        ]
    finally:
        await connection.close()
    return Owners(people[0], people[1], *numbers)
