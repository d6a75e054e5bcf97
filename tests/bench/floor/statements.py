"""The statements of the calls that are timed: taskflow's own, so that they cannot differ."""

from app.tasks import queries

ACTOR = (
    "SELECT user_id, id FROM credentials WHERE digest = $1"
    " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
)
_EVERYTHING = queries.Listed(())
LIST = queries.select_page(queries.Page(_EVERYTHING, "-created_at", 20, counted=True)).sql
LIST_UNCOUNTED = queries.select_page(
    queries.Page(_EVERYTHING, "-created_at", 20, counted=False)
).sql
READ = queries.READ_TASK.sql
CREATE = queries.CREATE_TASK.sql
PATCH = queries.update_task(frozenset({"metadata", "status"})).sql
