"""Tasks in full: tags, due dates, names and data of the client's own, and the trash."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import context, op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# RFC 7396. Recursive, which a function with a parsed body cannot be.
MERGE_PATCH = """
CREATE FUNCTION merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(patch) <> 'object' THEN patch
    ELSE (
        SELECT coalesce(jsonb_object_agg(name, value), '{}') FROM (
            SELECT old.key AS name, old.value
            FROM jsonb_each(CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END) old
            WHERE NOT patch ? old.key
            UNION ALL
            SELECT new.key, CASE WHEN jsonb_typeof(new.value) <> 'object' THEN new.value
                ELSE merge_patch(
                    CASE WHEN jsonb_typeof(target) = 'object' AND target ? new.key
                        THEN target -> new.key ELSE 'null' END,
                    new.value
                ) END
            FROM jsonb_each(patch) new WHERE new.value <> 'null'
        ) member
    ) END
$$
"""

# PostgreSQL writes a space after each comma and colon; a compact writer does not.
COMPACT_SIZE = """
CREATE FUNCTION compact_size(document jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
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
    ), 0)::bigint FROM node;
END
"""

# What searches compare: NFKC, without accents and case, each kana and Han character a word of its
# own. The database's own lower() may know ASCII only: the best collation of the server is named.
# Names carry their schema, since a restored dump runs this without a search path. In PL/pgSQL,
# because a function in SQL costs 100 µs a call where it cannot be inlined.
SEARCH_WORDS = r"""
DO $do$
DECLARE
    extension text := (
        SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'unaccent'
    );
    collation_name text := (
        SELECT coalesce(
            min(CASE collname WHEN 'pg_c_utf8' THEN 'pg_catalog.pg_c_utf8' END),
            min(CASE collname WHEN 'und-x-icu' THEN 'pg_catalog."und-x-icu"' END),
            'pg_catalog."default"'
        )
        FROM pg_collation
        WHERE collnamespace = 'pg_catalog'::regnamespace AND collencoding IN (-1, 6)
    );
BEGIN
    EXECUTE format(
        $create$
        CREATE FUNCTION search_words(phrase text) RETURNS text
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
        DECLARE
            words text;
        BEGIN
            IF octet_length(phrase) = char_length(phrase) THEN
                words := lower(phrase COLLATE pg_catalog."C");
            ELSE
                words := %1$s.unaccent('%1$s.unaccent'::regdictionary, normalize(phrase, NFKC));
                words := replace(lower(words COLLATE %2$s), U&'\03C2', U&'\03C3');
                words := regexp_replace(
                    words,
                    U&'([\3005\3007\3041-\309F\30A0-\30FF\31F0-\31FF\3400-\4DBF\4E00-\9FFF'
                        '\F900-\FAFF\+020000-\+03FFFF])',
                    ' \1 ',
                    'g'
                );
            END IF;
            RETURN regexp_replace(words, '[!-/:-@[-`{-~]+', ' ', 'g');
        END
        $function$
        $create$,
        extension,
        collation_name
    );
END
$do$
"""
# Between two fields, and between two tags, lies a word that is taken out again: a phrase must not
# reach from one into the next.
SEARCH_VECTOR = """
DO $do$
BEGIN
    EXECUTE format(
        $create$
        CREATE FUNCTION search_vector(title text, description text, tags character varying[])
        RETURNS tsvector LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
        BEGIN
            RETURN ts_delete(
                to_tsvector('simple'::regconfig, %I.search_words(
                    title || ' qzboundaryzq ' || description || ' qzboundaryzq '
                    || array_to_string(tags, ' qzboundaryzq ')
                )),
                'qzboundaryzq'
            );
        END
        $function$
        $create$,
        current_schema()
    );
END
$do$
"""

DUE = (
    "COALESCE(due_at, (((due_on + 1)::timestamp without time zone"
    " - '00:00:00.000001'::interval) AT TIME ZONE 'UTC'::text))"
)
CHECKS = {
    "tags_number": "cardinality(tags) <= 20",
    "tags_not_blank": "array_position(tags, '') IS NULL AND array_position(tags, NULL) IS NULL",
    "due_at_or_due_on": "num_nonnulls(due_at, due_on) <= 1",
    "external_id_not_empty": "external_id <> ''",
    "metadata_object": "jsonb_typeof(metadata) = 'object'",
    # At most every third character is a space that a compact writer leaves out.
    "metadata_size": (
        "octet_length(metadata::text) <= 16384"
        " OR octet_length(metadata::text) <= 24576 AND compact_size(metadata) <= 16384"
    ),
    "metadata_depth": (
        "NOT jsonb_path_exists(metadata,"
        ' \'strict $.**{32} ? (@.type() == "object" || @.type() == "array")\')'
    ),
}
OLD_INDEXES = {
    "ix_tasks_owner_id_created_at": ["created_at", "id"],
    "ix_tasks_owner_id_status_created_at": ["status", "created_at", "id"],
    "ix_tasks_owner_id_priority_created_at": ["priority", "created_at", "id"],
}
INDEXES_OF_LIVE = {
    "uq_tasks_owner_id_external_id": ["external_id"],
    "ix_tasks_owner_id_created_at": ["created_at", "id"],
    "ix_tasks_owner_id_updated_at": ["updated_at", "id"],
    "ix_tasks_owner_id_due_ascending": [
        sa.text("COALESCE(due, 'infinity'::timestamp with time zone)"),
        "id",
    ],
    "ix_tasks_owner_id_due_descending": [
        sa.text("COALESCE(due, '-infinity'::timestamp with time zone)"),
        "id",
    ],
    "ix_tasks_owner_id_priority": ["priority", "id"],
    "ix_tasks_owner_id_title_key": ["title_key", "id"],
    "ix_tasks_owner_id_status_created_at": ["status", "created_at", "id"],
    "ix_tasks_owner_id_search_tags": ["search", "tags"],
}
INDEXES_OF_TRASH = {
    "ix_tasks_owner_id_deleted_at": ["owner_id", "deleted_at", "id"],
    "ix_tasks_deleted_at": ["deleted_at"],
}


def upgrade() -> None:
    op.execute(MERGE_PATCH)
    op.execute(COMPACT_SIZE)
    # Both may be there already, and in use by others: they stay on the way down.
    op.execute("CREATE EXTENSION IF NOT EXISTS unaccent")
    op.execute("CREATE EXTENSION IF NOT EXISTS btree_gin")
    op.execute(SEARCH_WORDS)
    op.execute(SEARCH_VECTOR)
    op.add_column("tasks", sa.Column("title_key", sa.Text(collation="C"), nullable=True))
    _fill_title_keys()
    op.alter_column("tasks", "title_key", nullable=False)
    op.add_column(
        "tasks",
        sa.Column(
            "tags", postgresql.ARRAY(sa.String(length=50)), server_default="{}", nullable=False
        ),
    )
    op.add_column("tasks", sa.Column("due_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tasks", sa.Column("due_on", sa.Date(), nullable=True))
    op.add_column(
        "tasks",
        sa.Column(
            "due", sa.DateTime(timezone=True), sa.Computed(DUE, persisted=True), nullable=True
        ),
    )
    op.add_column("tasks", sa.Column("external_id", sa.String(length=200), nullable=True))
    op.add_column(
        "tasks",
        sa.Column("metadata", postgresql.JSONB(), server_default="{}", nullable=False),
    )
    op.add_column(
        "tasks",
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed("search_vector((title)::text, description, tags)", persisted=True),
            nullable=False,
        ),
    )
    op.add_column("tasks", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    for name, condition in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_tasks_{name}"), "tasks", condition)
    for name in OLD_INDEXES:
        op.drop_index(name, table_name="tasks")
    for name, columns in INDEXES_OF_LIVE.items():
        op.create_index(
            name,
            "tasks",
            ["owner_id", *columns],
            unique=name.startswith("uq_"),
            postgresql_using="gin" if "search" in columns else None,
            postgresql_where=sa.text("deleted_at IS NULL"),
        )
    for name, columns in INDEXES_OF_TRASH.items():
        op.create_index(name, "tasks", columns, postgresql_where=sa.text("deleted_at IS NOT NULL"))


def _fill_title_keys() -> None:
    """Give each title its lower case as Python has it; the database's own depends on its locale."""
    op.execute("UPDATE tasks SET title_key = lower(title)")
    if context.is_offline_mode():
        return
    connection = op.get_bind()
    tasks = sa.table("tasks", sa.column("id"), sa.column("title"), sa.column("title_key"))
    beyond_ascii = (
        sa.select(tasks.c.id, tasks.c.title)
        .where(sa.text("octet_length(title) > char_length(title)"))
        .order_by(tasks.c.id)
        .limit(1000)
    )
    statement = (
        sa.update(tasks)
        .where(tasks.c.id == sa.bindparam("task_id", type_=sa.BigInteger))
        .values(title_key=sa.bindparam("key", type_=sa.Text))
    )
    last = 0
    while rows := connection.execute(beyond_ascii.where(tasks.c.id > last)).all():
        keys = [{"task_id": row.id, "key": row.title.lower()} for row in rows]
        connection.execute(statement, keys)
        last = rows[-1].id


def downgrade() -> None:
    # A schema without a trash would show what is in it.
    op.execute("DELETE FROM tasks WHERE deleted_at IS NOT NULL")
    for name in (*INDEXES_OF_LIVE, *INDEXES_OF_TRASH):
        op.drop_index(name, table_name="tasks")
    for name, columns in OLD_INDEXES.items():
        op.create_index(name, "tasks", ["owner_id", *columns])
    for name in CHECKS:
        op.drop_constraint(op.f(f"ck_tasks_{name}"), "tasks", type_="check")
    for name in (
        "deleted_at",
        "search",
        "metadata",
        "external_id",
        "due",
        "due_on",
        "due_at",
        "tags",
        "title_key",
    ):
        op.drop_column("tasks", name)
    op.execute("DROP FUNCTION search_vector(text, text, character varying[])")
    op.execute("DROP FUNCTION search_words(text)")
    op.execute("DROP FUNCTION compact_size(jsonb)")
    op.execute("DROP FUNCTION merge_patch(jsonb, jsonb)")
