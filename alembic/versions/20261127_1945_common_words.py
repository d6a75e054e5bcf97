"""Whether a word is so common that the index of words, which is of all owners, had better rest.

For the start of a word the index reads where each word that begins so stands in all tasks there
are. For a common one that takes longer the more tasks others have, and what the rest of a search
leaves of an owner's own tasks is looked through sooner. How common it is PostgreSQL expects from
its statistics of words, in which 400 keeps four times as many words as the default does.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# How many tasks of an owner, or of all, PostgreSQL expects to hold what is searched for, or to be
# there at all.
EXPECTED_TASKS = """
CREATE FUNCTION expected_tasks(owner bigint, query tsquery) RETURNS double precision
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET jit = off AS $$
DECLARE
    statement text := 'EXPLAIN (FORMAT JSON) SELECT FROM tasks WHERE deleted_at IS NULL'
        || CASE WHEN owner IS NULL THEN '' ELSE ' AND owner_id = $1' END
        || CASE WHEN query IS NULL THEN '' ELSE ' AND search @@ $2' END;
    plan json;
BEGIN
    EXECUTE statement INTO plan USING owner, query;
    RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END
$$
"""
# To look at a task takes as long as to read a hundred entries of the index; less than ten thousand
# are read in a fraction of a millisecond.
#
# Said to be IMMUTABLE, so that PostgreSQL calls it while it plans a statement, and then plans what
# follows from the answer; both answers lead to the same tasks. EXPLAIN is for VOLATILE functions
# alone. The cost keeps PostgreSQL from a plan for all values, which would call this for each task.
IS_COMMON = """
CREATE FUNCTION is_common(start tsquery, owner bigint, others tsquery) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL RESTRICTED COST 1000000000 AS $$
DECLARE
    entries double precision;
BEGIN
    IF start IS NULL THEN
        RETURN false;
    END IF;
    entries := expected_tasks(NULL, start);
    IF entries < 10000 THEN
        RETURN false;
    END IF;
    RETURN entries > 100 * expected_tasks(owner, others);
END
$$
"""


def upgrade() -> None:
    op.execute(EXPECTED_TASKS)
    op.execute(IS_COMMON)
    op.execute("ALTER TABLE tasks ALTER COLUMN search SET STATISTICS 400")
    op.execute("ANALYZE tasks (search)")


def downgrade() -> None:
    op.execute("ALTER TABLE tasks ALTER COLUMN search SET STATISTICS -1")
    op.execute("DROP FUNCTION is_common(tsquery, bigint, tsquery)")
    op.execute("DROP FUNCTION expected_tasks(bigint, tsquery)")
