"""Commits that PostgreSQL refuses."""

from tests.support import run_sql

FAILING = """
    CREATE FUNCTION fail_commit() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$
"""


def let_commits_fail(database_url: str, table: str) -> None:
    """Let each commit of a write to the table fail, whose statement itself succeeds.

    Until the trigger `fail` is dropped.
    """
    trigger = (
        f"CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE OR DELETE ON {table} "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_commit()"
    )
    run_sql(database_url, FAILING, trigger)
