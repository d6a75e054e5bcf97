"""The schema is ready to be spread by owner: on hash partitions, each query goes to one of them."""

import io
from typing import Any

import asyncpg
import pytest

from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from app.tasks.purge import purge
from app.tasks.transfer.importing import import_tasks
from app.tasks.transfer.reading import ImportFormat, read_rows
from tests.authorization.rows import API, SECURED
from tests.conftest import NewDatabase
from tests.support import (
    CHEAP_HASH,
    PASSWORD,
    Account,
    assert_error,
    make_account,
    run_sql,
    served,
    service_settings,
)

# PostgreSQL tells what a connection has counted when it ends.
pytestmark = pytest.mark.direct
PARTITIONS = 4
# What tables there are, with the key that each has besides the owner.
SPREAD = {"tasks": "id", "idempotency_keys": "key"}
# PostgreSQL gives the indexes of partitions names of its own. The unique ones get the name of the
# whole with a number, as Citus has it for shards: by it clients are told what was taken.
SPREAD_OUT = """
    DO $do$
    DECLARE
        indexes text[] := (
            SELECT array_agg(indexdef) FROM pg_indexes
            WHERE tablename = '{table}' AND indexname <> 'pk_{table}'
        );
        definition text;
        part record;
    BEGIN
        ALTER TABLE {table} RENAME TO whole;
        CREATE TABLE {table} (LIKE whole INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY)
            PARTITION BY HASH (owner_id);
        FOR number IN 0..{last} LOOP
            EXECUTE format(
                'CREATE TABLE {table}_%1$s PARTITION OF {table}'
                ' FOR VALUES WITH (MODULUS {partitions}, REMAINDER %1$s)', number
            );
        END LOOP;
        DROP TABLE whole;
        FOREACH definition IN ARRAY indexes LOOP
            EXECUTE definition;
        END LOOP;
        ALTER TABLE {table} ADD CONSTRAINT pk_{table} PRIMARY KEY (owner_id, {key});
        ALTER TABLE {table} ADD CONSTRAINT fk_{table}_owner_id
            FOREIGN KEY (owner_id) REFERENCES users (id) ON DELETE CASCADE;
        FOR part IN
            SELECT child.relname AS name, whole.relname || '_' || row_number() OVER () AS wanted
            FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
            JOIN pg_class whole ON whole.oid = inhparent AND whole.relname LIKE 'uq_{table}_%'
        LOOP
            EXECUTE format('ALTER INDEX %I RENAME TO %I', part.name, part.wanted);
        END LOOP;
    END
    $do$
"""
NEW_IDS = """
    CREATE SEQUENCE tasks_ids OWNED BY tasks.id;
    ALTER TABLE tasks ALTER id SET DEFAULT nextval('tasks_ids')
"""
SCANS = """
    SELECT relname AS name, seq_scan + coalesce(idx_scan, 0) AS scans
    FROM pg_stat_user_tables WHERE relname ~ '_[0-9]$'
"""
MAKE_TASKS = """
    INSERT INTO tasks (owner_id, title, title_key, description, status, priority, external_id)
    SELECT $1, 'Water the plants', 'water the plants', '', 'pending', 'low', 'e' || n
    FROM generate_series(1, 50) AS n
"""
PARTITION_OF = "SELECT DISTINCT right(tableoid::regclass::text, 2) FROM tasks WHERE owner_id = $1"


@pytest.fixture
def partitioned(new_database: NewDatabase) -> Settings:
    url = new_database()
    for table, key in SPREAD.items():
        run_sql(
            url,
            SPREAD_OUT.format(table=table, key=key, last=PARTITIONS - 1, partitions=PARTITIONS),
        )
    run_sql(url, *NEW_IDS.split(";"))
    return service_settings(url)


async def rows_of(settings: Settings, query: str, *values: Any) -> list[Any]:
    connection = await asyncpg.connect(settings.required_database_url)
    try:
        return list(await connection.fetch(query, *values))
    finally:
        await connection.close()


async def scans(settings: Settings) -> dict[str, int]:
    """How often each partition was looked into, by all connections that have ended."""
    return {row["name"]: row["scans"] for row in await rows_of(settings, SCANS)}


SORTS = ("created_at", "updated_at", "due", "priority", "title")
INSTANT = "2030-01-01T00:00:00Z"
FILTERS = (
    *({"status": "pending"}, {"priority": "low"}, {"tag": "home"}, {"q": "water -roses"}),
    *({"due_after": INSTANT}, {"due_before": INSTANT}, {"overdue": "true"}, {"overdue": "false"}),
    *({"created_after": INSTANT}, {"created_before": INSTANT}, {"external_id": "e1"}),
    *({"updated_after": INSTANT}, {"updated_before": INSTANT}),
)


async def read_all(owner: Account) -> None:
    """All that reads, with each filter, each order, and each way to a page."""
    client = owner.client
    reads: list[tuple[str, dict[str, Any]]] = [
        *(("tasks", {"sort": sign + sort}) for sort in SORTS for sign in ("", "-")),
        *(("tasks", {"sort": sort, "page": 2, "per_page": 5}) for sort in SORTS),
        *((path, one) for path in ("tasks", "tasks/stats", "tasks/export") for one in FILTERS),
        *(("tasks/export", {"format": form}) for form in ("json", "csv", "ics")),
        *(("tasks/trash", {"page": page, "per_page": 1}) for page in (1, 2, 9)),
    ]
    for path, parameters in reads:
        response = await client.get(f"{API}/{path}", params=parameters)
        assert response.status_code == 200, response.text
    for sort in SORTS:
        query: dict[str, Any] = {"sort": sort, "per_page": 20}
        seen = 0
        while query.get("cursor", "") is not None:
            page = (await client.get(f"{API}/tasks", params=query)).json()["data"]
            query["cursor"] = page["next_cursor"]
            seen += len(page["tasks"])
        assert seen >= 50


async def write_all(owner: Account) -> None:
    """What the matrix of operations leaves out: repeats, conditions and refusals."""
    client = owner.client
    key = {"Idempotency-Key": "first"}
    for replayed in (None, "true"):
        response = await client.post(f"{API}/tasks", json={"title": "Once"}, headers=key)
        assert response.status_code == 201, response.text
        assert response.headers.get("Idempotent-Replayed") == replayed
    path = f"{API}/tasks/external/put"
    bodies = ({"title": "One"}, {"title": "Two"}, {"title": "Two"})
    answers = [await client.put(path, json=body) for body in bodies]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert [answer.json()["data"]["version"] for answer in answers] == [1, 2, 2]
    taken = {"title": "Three", "external_id": "put"}
    assert_error(
        await client.post(f"{API}/tasks", json=taken),
        409,
        "external_id_taken",
        fields={"body.external_id": "duplicate"},
    )
    changes = {"operations": [{"op": "create", "task": taken}]}
    assert_error(
        await client.post(f"{API}/tasks/batch", json=changes),
        409,
        "external_id_taken",
        fields={"body.operations[0].task.external_id": "duplicate"},
    )
    old = {"If-Match": '"1-999"'}
    task = await owner.create_task()
    for method in ("PATCH", "DELETE"):
        body: dict[str, Any] = {"json": {"title": "x"}} if method == "PATCH" else {}
        response = await client.request(method, f"{API}/tasks/{task['id']}", headers=old, **body)
        assert_error(response, 412, "version_conflict")


async def import_some(database: Database, owner: Account) -> None:
    file = io.BytesIO(b"title,external_id\nReplaced,e1\nNew,new\n")
    async with database.transaction() as session:
        rows = read_rows(file, ImportFormat.CSV)
        report = await import_tasks(
            session, owner.id, rows, keep_going=False, advance=lambda _: None
        )
    assert (report.created, report.replaced) == (1, 1)


async def test_every_operation_goes_to_the_partition_of_its_owner_alone(
    partitioned: Settings,
) -> None:
    database = Database(partitioned)
    with served(create_app(partitioned)) as base_url:
        # Enough for each partition to have some.
        owners = [
            await make_account(database, base_url, password_hash=CHEAP_HASH) for _ in range(16)
        ]
        for account in owners:
            await rows_of(partitioned, MAKE_TASKS, account.id)
        owner = owners[0]
        ((own,),) = await rows_of(partitioned, PARTITION_OF, owner.id)
        await rows_of(partitioned, "SELECT pg_stat_reset()")

        await read_all(owner)
        await write_all(owner)
        await import_some(database, owner)
        # The account is closed last, with all that it owns.
        for name, row in sorted(SECURED.items(), key=lambda item: item[0] == "close_account"):
            call = await row(owner)
            response = await owner.client.request(call.method, call.path, **call.options)
            assert response.is_success, f"{name}: {response.text}"
            if name == "change_password":
                change = {"current_password": "another horse", "new_password": PASSWORD}
                response = await owner.client.post(call.path, json=change)
                assert response.is_success
    await database.close()
    for account in owners:
        await account.client.aclose()

    looked_into = {name for name, number in (await scans(partitioned)).items() if number}
    assert looked_into == {f"{table}{own}" for table in SPREAD}


async def test_only_the_purge_goes_through_all_partitions(partitioned: Settings) -> None:
    database = Database(partitioned)
    assert await purge(database, partitioned) == {"tasks": 0, "idempotency_keys": 0}
    await database.close()
    assert all((await scans(partitioned)).values())
