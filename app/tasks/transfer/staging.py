"""The statements of an import: rows wait in a temporary table until all of them are checked."""

from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Delete,
    Integer,
    MetaData,
    Select,
    Subquery,
    Table,
    Text,
    Update,
    and_,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import Insert as InsertOrUpdate
from sqlalchemy.dialects.postgresql import insert as insert_or_update
from sqlalchemy.orm import aliased
from sqlalchemy.sql.selectable import LateralFromClause

from app.accounts.models import User
from app.tasks.models import METADATA_MAX_BYTES, Task, TaskStatus
from app.tasks.queries import columns, moment_of_change
from app.tasks.schemas import TaskReplace

# Text, as the driver copies it; PostgreSQL makes the rest of it, over its whole range.
staged = Table(
    "task_import",
    MetaData(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("place", Text),
    Column("title", Text),
    Column("title_key", Text),
    Column("description", Text),
    Column("status", Text),
    Column("priority", Text),
    Column("tags", ARRAY(Text)),
    Column("due_at", Text),
    Column("due_on", Text),
    Column("external_id", Text),
    Column("metadata", Text),
    Column("completed_at", Text),
    Column("created_at", Text),
    Column("updated_at", Text),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)
s = staged.c
INSTANT = DateTime(timezone=True)


def _as_column(name: str) -> ColumnElement[Any]:
    return cast(s[name], columns[name].type)


def _between(first: int, last: int) -> ColumnElement[bool]:
    return s.number.between(first, last)


def select_too_large(first: int, last: int) -> Select[int, str]:
    """The rows whose metadata is within its bound as sent, but not as PostgreSQL writes it."""
    metadata = _as_column("metadata")
    return select(s.number, s.place).where(
        _between(first, last),
        func.octet_length(cast(metadata, Text)) > METADATA_MAX_BYTES,
        func.compact_size(metadata) > METADATA_MAX_BYTES,
    )


def _numbered_by_external_id() -> Subquery:
    """The rows that have an external_id, the first with the same, and which of those they are."""
    with_the_same: dict[str, Any] = {"partition_by": s.external_id, "order_by": s.number}
    return (
        select(
            s.number,
            s.place,
            func.first_value(s.place).over(**with_the_same).label("first"),
            func.row_number().over(**with_the_same).label("nth"),
        )
        .where(s.external_id.is_not(None))
        .subquery()
    )


def select_repeated(limit: int) -> Select[str, str, int]:
    """The places of rows with an external_id that stands before, where it does, and their total."""
    rows = _numbered_by_external_id()
    return (
        select(rows.c.place, rows.c.first, func.count().over())
        .where(rows.c.nth > 1)
        .order_by(rows.c.number)
        .limit(limit)
    )


def delete_repeated() -> Delete:
    rows = _numbered_by_external_id()
    return delete(staged).where(s.number.in_(select(rows.c.number).where(rows.c.nth > 1)))


# What a replacement replaces, as a PUT would.
_REPLACED = tuple(TaskReplace.model_fields)


def create(owner_id: int, first: int, last: int) -> InsertOrUpdate:
    """Insert the rows whose external_id no live task has, in the order of the file."""
    created_at = func.coalesce(
        _as_column("created_at"), _as_column("updated_at"), func.now(), type_=INSTANT
    )
    updated_at = func.coalesce(
        _as_column("updated_at"), func.greatest(created_at, func.now()), type_=INSTANT
    )
    completed_at = func.coalesce(_as_column("completed_at"), updated_at)
    values: dict[str, ColumnElement[Any]] = {name: _as_column(name) for name in _REPLACED}
    values |= {
        "owner_id": literal(owner_id, Task.owner_id.type),
        "title_key": s.title_key,
        "external_id": s.external_id,
        "completed_at": case((s.status == TaskStatus.COMPLETED.value, completed_at)),
        "created_at": created_at,
        "updated_at": updated_at,
    }
    rows = select(*values.values()).where(_between(first, last)).order_by(s.number)
    return (
        insert_or_update(Task)
        .from_select([columns[name] for name in values], rows)
        .on_conflict_do_nothing(
            index_elements=[Task.owner_id, Task.external_id],
            index_where=Task.deleted_at.is_(None),
        )
    )


def keep_account(owner_id: int) -> Select[int]:
    """The owner's id, if the account is still there; it can't be closed until the import ends."""
    return select(User.id).where(User.id == owner_id).with_for_update(read=True, key_share=True)


def _live_task_of_row(owner_id: int) -> LateralFromClause:
    """The id of the live task that has a row's external_id: a look into the index for each row.

    Without the limit, and without statistics of a table that has just been filled, PostgreSQL reads
    all of the owner's tasks for each row.
    """
    same = aliased(Task)
    return (
        select(same.id)
        .where(
            same.owner_id == owner_id,
            same.deleted_at.is_(None),
            same.external_id == s.external_id,
        )
        .limit(1)
        .lateral()
    )


def lock_replaced(owner_id: int) -> Select[int]:
    """The ids of all tasks that rows replace, locked one by one in their order, as by batches.

    PostgreSQL takes neither of the two subqueries apart, since one is in order and the other locks.
    From a plain join it makes, of tables that have just grown, a comparison of all with all.
    """
    found = _live_task_of_row(owner_id)
    in_order = (
        select(found.c.id, s.external_id)
        .join_from(staged, found, true())
        .order_by(found.c.id)
        .subquery()
    )
    locked = (
        select(Task.id)
        .where(
            Task.id == in_order.c.id,
            Task.owner_id == owner_id,
            # Again, for the row as it is when its lock is won; in words that fit no index.
            Task.external_id.is_not_distinct_from(in_order.c.external_id),
            ~func.coalesce(Task.deleted_at.is_not(None)),
        )
        .with_for_update()
        .lateral()
    )
    return select(locked.c.id).join_from(in_order, locked, true())


def replace(owner_id: int, first: int, last: int) -> Update:
    """Give the locked tasks what their rows say; equal content keeps the version."""
    found = _live_task_of_row(owner_id)
    values: dict[Any, ColumnElement[Any]] = {columns[n]: _as_column(n) for n in _REPLACED}
    moment = moment_of_change()
    completed_at = func.coalesce(_as_column("completed_at"), Task.completed_at, moment)
    consequences: dict[Any, ColumnElement[Any]] = {
        columns["title_key"]: s.title_key,
        columns["completed_at"]: case((s.status == TaskStatus.COMPLETED.value, completed_at)),
        columns["version"]: Task.version + 1,
        columns["updated_at"]: moment,
    }
    another_completed_at = and_(
        s.completed_at.is_not(None),
        Task.completed_at.is_distinct_from(_as_column("completed_at")),
    )
    return (
        update(Task)
        .where(
            _between(first, last),
            Task.owner_id == owner_id,
            Task.id == found.c.id,
            or_(
                *(column.is_distinct_from(value) for column, value in values.items()),
                another_completed_at,
            ),
        )
        .values(values | consequences)
        .execution_options(synchronize_session=False)
    )
