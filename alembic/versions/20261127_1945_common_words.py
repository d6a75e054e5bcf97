"""Whether a word is so common that the index of words, which is of all owners, had better rest.

For the start of a word the index reads where each word that begins so stands in all tasks there
are. For a common one that takes longer the more tasks others have, and an owner's own tasks are
looked through sooner. How common it is PostgreSQL expects from its statistics of words, in which
400 keeps four times as many words as the default does.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

EXPECTED_SHARE = """
CREATE FUNCTION expected_share(query tsquery) RETURNS double precision
LANGUAGE plpgsql VOLATILE STRICT PARALLEL RESTRICTED AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT JSON) SELECT FROM tasks WHERE search @@ $1' INTO plan USING query;
    RETURN (
        SELECT (plan -> 0 -> 'Plan' ->> 'Plan Rows')::double precision / reltuples
        FROM pg_class WHERE oid = 'tasks'::regclass AND reltuples > 0
    );
END
$$
"""
# Said to be IMMUTABLE, so that PostgreSQL calls it while it plans a statement, and then plans what
# follows from the answer; both answers lead to the same tasks. EXPLAIN is for VOLATILE functions
# alone. The cost keeps PostgreSQL from a plan for all values, which would call this for each task.
IS_COMMON = """
CREATE FUNCTION is_common(query tsquery) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL RESTRICTED COST 100000 AS $$
BEGIN
    RETURN expected_share(query) > 0.01;
END
$$
"""


def upgrade() -> None:
    op.execute(EXPECTED_SHARE)
    op.execute(IS_COMMON)
    op.execute("ALTER TABLE tasks ALTER COLUMN search SET STATISTICS 400")
    op.execute("ANALYZE tasks (search)")


def downgrade() -> None:
    op.execute("ALTER TABLE tasks ALTER COLUMN search SET STATISTICS -1")
    op.execute("DROP FUNCTION is_common(tsquery)")
    op.execute("DROP FUNCTION expected_share(tsquery)")
