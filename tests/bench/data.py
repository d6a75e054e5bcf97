"""The tasks that all sides work on, made by the database itself, the same in every run."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from app.accounts.credentials import LOGIN_PREFIX, SCOPES
from app.core.security import new_token, token_digest

SECRET_KEY = secrets.token_hex()

_VERBS = "Write|Check|Order|Book|Clean|Call about|Replace|Confirm|Translate|Pay for|Measure|Move"
_THINGS = (
    "the quarterly report|the insurance claim|the rental contract|the saw blades|the work lamp"
    "|the train to Vienna|the safety sheet|the newsletter|the olive tree|the car inspection"
    "|the price list|the minutes of Monday|the holiday flat|the dust filter|the offer to the school"
)
_SENTENCES = (
    "Ask first whether it can wait until next week."
    "|Last time it took an hour; the notes are in the blue folder."
    "|Agreed on the phone with Ana, who sends the figures by Thursday."
    "|See also https://example.com/notes/4711 for what was said before."
    "|The supplier answers only in the morning, and only by letter."
    "|If nothing has happened by then, tell the others and close it."
)
_TAGS = "home|work|garden|errand|weekly|finance|travel|waiting|family|workshop"

# Each random number is drawn once per row; `setseed` makes them the same in every run.
INSERT_TASKS = f"""
WITH words AS MATERIALIZED (
  SELECT string_to_array('{_VERBS}', '|') AS verbs, string_to_array('{_THINGS}', '|') AS things,
    string_to_array('{_SENTENCES}', '|') AS sentences, string_to_array('{_TAGS}', '|') AS tags
), drawn AS (
  SELECT n, random() AS a, random() AS b, random() AS c, random() AS d, random() AS e,
    random() AS f, random() AS g, random() AS h
  FROM generate_series($2::bigint, $3::bigint) AS n
), made AS (
  SELECT drawn.*, verbs[1 + floor(a * 12)::int] || ' ' || things[1 + floor(b * 15)::int]
    || ', no. ' || n AS title,
    array_to_string(sentences[1 + floor(c * 6)::int : floor(c * 6)::int + floor(d * 4)::int], ' ')
      AS description,
    (ARRAY['pending', 'pending', 'in_progress', 'completed', 'completed', 'cancelled']
      )[1 + floor(e * 6)::int] AS status,
    (ARRAY['low', 'medium', 'medium', 'high', 'critical'])[1 + floor(f * 5)::int] AS priority,
    tags[1 + floor(g * 10)::int : floor(g * 10)::int + floor(a * 4)::int] AS tags,
    date_trunc('day', now()) - h * interval '90 days' AS created_at
  FROM drawn, words
)
INSERT INTO tasks (owner_id, title, title_key, description, status, priority, tags, due_at, due_on,
  metadata, completed_at, created_at, updated_at)
SELECT ($1::bigint[])[1 + n % cardinality($1::bigint[])], title, lower(title), description,
  status::task_status, priority::task_priority, tags,
  CASE WHEN d < 0.4 THEN created_at + g * interval '60 days' END,
  CASE WHEN d > 0.8 THEN (created_at + g * interval '60 days')::date END,
  jsonb_build_object('project', 'P-' || floor(b * 900 + 100)::int, 'estimate', floor(c * 16)::int),
  CASE status WHEN 'completed' THEN created_at + interval '1 day' END,
  created_at, created_at + a * interval '1 day'
FROM made
"""
INSERT_USERS = """
INSERT INTO users (username, email, email_key, password_hash)
SELECT name, name || '@example.com', name || '@example.com', 'nobody logs in'
FROM (SELECT 'bench' || n AS name FROM generate_series(1, $1::int) AS n) AS names
RETURNING id
"""
INSERT_CREDENTIAL = """
INSERT INTO credentials (user_id, kind, digest, scopes, expires_at)
VALUES ($1, 'login', $2, $3, now() + interval '1 day')
"""
LAST_STATEMENT = """
SELECT query FROM pg_stat_activity WHERE application_name = $1
ORDER BY query_start DESC NULLS LAST LIMIT 1
"""


@dataclass(frozen=True)
class Person:
    """A user with a login and tasks."""

    id: int
    token: str = field(repr=False)
    task_ids: Sequence[int]


async def add_people(connection: "asyncpg.Connection[asyncpg.Record]", number: int) -> list[Person]:
    """New users without tasks, each with a login; to be called once per database."""
    people = [
        Person(row["id"], new_token(LOGIN_PREFIX), [])
        for row in await connection.fetch(INSERT_USERS, number)
    ]
    await connection.executemany(
        INSERT_CREDENTIAL,
        [(person.id, token_digest(person.token, SECRET_KEY), list(SCOPES)) for person in people],
    )
    return people


async def seed(url: str, *, users: int, tasks: int) -> list[Person]:
    """Users with `tasks` tasks each, in a database that is empty but for its schema."""
    connection = await asyncpg.connect(url)
    try:
        people = await add_people(connection, users)
        await connection.execute("SELECT setseed(0.5)")
        ids = [person.id for person in people]
        await connection.execute(INSERT_TASKS, ids, 1, users * tasks)
        await connection.execute("VACUUM (ANALYZE)")
        rows = await connection.fetch(
            "SELECT owner_id, array_agg(id ORDER BY id) AS ids FROM tasks GROUP BY owner_id"
        )
    finally:
        await connection.close()
    ids_of = {row["owner_id"]: row["ids"] for row in rows}
    return [Person(person.id, person.token, ids_of[person.id]) for person in people]


async def settle(url: str, people: Sequence[Person]) -> None:
    """Take away what writes have added, and clean up, so that the next slice finds it as before."""
    connection = await asyncpg.connect(url)
    try:
        last = max(person.task_ids[-1] for person in people)
        await connection.execute("DELETE FROM tasks WHERE id > $1", last)
        await connection.execute("DELETE FROM idempotency_keys")
        await connection.execute("VACUUM (ANALYZE) tasks, idempotency_keys")
    finally:
        await connection.close()


async def last_statement(url: str, application: str) -> str:
    """The statement that an application's connections have sent last, with single spaces."""
    connection = await asyncpg.connect(url)
    try:
        text = await connection.fetchval(LAST_STATEMENT, application)
    finally:
        await connection.close()
    return " ".join(str(text).split())
