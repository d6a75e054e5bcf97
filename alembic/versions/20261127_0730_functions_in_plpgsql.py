"""Functions on JSON in PL/pgSQL: one in SQL is planned anew by each statement that may call it.

`compact_size` stands in a CHECK, and so each INSERT and UPDATE of a task planned it, although it is
never called for ordinary metadata.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# PostgreSQL writes a space after each comma and colon; a compact writer does not.
COMPACT_SIZE = """
CREATE OR REPLACE FUNCTION compact_size(document jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN (
        WITH RECURSIVE node (value) AS (
            SELECT document
            UNION ALL
            SELECT child.value FROM node CROSS JOIN LATERAL (
                SELECT member.value FROM jsonb_each(
                    CASE WHEN jsonb_typeof(node.value) = 'object' THEN node.value ELSE '{}' END
                ) member
                UNION ALL
                SELECT item.value FROM jsonb_array_elements(
                    CASE WHEN jsonb_typeof(node.value) = 'array' THEN node.value ELSE '[]' END
                ) item
            ) child
        )
        SELECT octet_length(document::text) - coalesce(sum(
            CASE jsonb_typeof(value)
                WHEN 'object' THEN
                    greatest(2 * (SELECT count(*) FROM jsonb_object_keys(value)) - 1, 0)
                WHEN 'array' THEN greatest(jsonb_array_length(value) - 1, 0)
                ELSE 0
            END
        ), 0)::bigint FROM node
    );
END
$$
"""

# RFC 7396. A patch whose members are neither null nor objects only adds and replaces members, which
# is what the operator does.
MERGE_PATCH = """
CREATE OR REPLACE FUNCTION merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF jsonb_typeof(patch) <> 'object' THEN
        RETURN patch;
    END IF;
    IF jsonb_typeof(target) <> 'object' THEN
        target := '{}';
    END IF;
    IF NOT jsonb_path_exists(patch, 'strict $.* ? (@ == null || @.type() == "object")') THEN
        RETURN target || patch;
    END IF;
    RETURN (
        SELECT coalesce(jsonb_object_agg(name, value), '{}') FROM (
            SELECT old.key AS name, old.value FROM jsonb_each(target) old
            WHERE NOT patch ? old.key
            UNION ALL
            SELECT new.key, CASE WHEN jsonb_typeof(new.value) <> 'object' THEN new.value
                ELSE merge_patch(
                    CASE WHEN target ? new.key THEN target -> new.key ELSE 'null' END, new.value
                ) END
            FROM jsonb_each(patch) new WHERE new.value <> 'null'
        ) member
    );
END
$$
"""


def upgrade() -> None:
    op.execute(COMPACT_SIZE)
    op.execute(MERGE_PATCH)


def downgrade() -> None:
    """Nothing goes back: both functions give what they gave before."""
