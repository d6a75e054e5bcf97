"""The statements that taskflow sends for the calls that are timed."""

_COLUMNS = (
    "tasks.id, tasks.owner_id, tasks.title, tasks.description, tasks.status, tasks.priority,"
    " tasks.tags, tasks.due_at, tasks.due_on, tasks.external_id, tasks.metadata,"
    " tasks.completed_at, tasks.deleted_at, tasks.version, tasks.created_at, tasks.updated_at"
)
_NOT_ENDED = (
    "credentials.revoked_at IS NULL AND"
    " (credentials.expires_at IS NULL OR credentials.expires_at > now())"
)


def _live(parameter: int) -> str:
    return (
        "EXISTS (SELECT * FROM credentials"
        f" WHERE credentials.id = ${parameter}::BIGINT AND {_NOT_ENDED})"
    )


_VISIBLE = f"tasks.owner_id = $1::BIGINT AND ({_live(2)}) AND tasks.deleted_at IS NULL AND true"
_PAGE = (
    f"FROM tasks WHERE {_VISIBLE} ORDER BY tasks.created_at DESC, tasks.id DESC"
    " LIMIT $3::INTEGER OFFSET $4::INTEGER"
)
_STATUS_CHANGES = "tasks.status IS DISTINCT FROM $1::task_status"
_METADATA = "merge_patch(tasks.metadata, $2::JSONB)"
_CHANGES = f"({_STATUS_CHANGES} OR tasks.metadata IS DISTINCT FROM {_METADATA})"
_MOMENT = "greatest(now(), tasks.updated_at + $4::INTERVAL)"

ACTOR = (
    "SELECT user_id, id FROM credentials WHERE digest = $1"
    " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
)
LIST = (
    f"SELECT {_COLUMNS}, (SELECT count(*) AS count_1 FROM tasks WHERE {_VISIBLE}) AS anon_1 {_PAGE}"
)
LIST_UNCOUNTED = f"SELECT {_COLUMNS}, NULL AS anon_1 {_PAGE}"
READ = (
    f"SELECT {_COLUMNS} FROM tasks WHERE tasks.id = $1::BIGINT AND tasks.owner_id = $2::BIGINT"
    f" AND ({_live(3)}) AND tasks.deleted_at IS NULL"
)
CREATE = (
    "INSERT INTO tasks (title, description, status, priority, tags, due_at, due_on, metadata,"
    " external_id, title_key, owner_id, completed_at) SELECT $1::VARCHAR AS anon_1,"
    " $2::VARCHAR AS anon_2, $3::task_status AS anon_3, $4::task_priority AS anon_4,"
    " $5::VARCHAR(50)[] AS anon_5, CAST($6::VARCHAR AS TIMESTAMP WITH TIME ZONE) AS anon_6,"
    " CAST($7::VARCHAR AS DATE) AS anon_7, $8::JSONB AS anon_8, $9::VARCHAR AS anon_9,"
    ' $10::VARCHAR COLLATE "C" AS anon_10, $11::BIGINT AS anon_11, NULL AS anon_12'
    f" WHERE {_live(12)} RETURNING {_COLUMNS}"
)
PATCH = (
    f"UPDATE tasks SET status=$1::task_status, metadata={_METADATA},"
    " completed_at=CASE WHEN ($1::task_status = $3::task_status)"
    f" THEN coalesce(tasks.completed_at, {_MOMENT}) END,"
    f" version=CASE WHEN {_CHANGES} THEN tasks.version + $5::INTEGER ELSE tasks.version END,"
    f" updated_at=CASE WHEN {_CHANGES} THEN {_MOMENT} ELSE tasks.updated_at END"
    " WHERE tasks.id = $6::BIGINT AND tasks.owner_id = $7::BIGINT"
    f" AND ({_live(8)}) AND tasks.deleted_at IS NULL RETURNING {_COLUMNS}"
)
