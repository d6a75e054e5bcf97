"""Every statement on tasks. Each is guarded: no row is seen or written for an ended credential."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Delete,
    Select,
    String,
    Update,
    and_,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import Insert as InsertOrUpdate
from sqlalchemy.dialects.postgresql import insert as insert_or_update
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.sql.elements import KeyedColumnElement

from app.accounts.credentials import Actor, credential_is_live
from app.core.conditions import EntityTags
from app.core.pagination import PageQuery
from app.tasks.filters import TaskFilters, is_overdue, passes
from app.tasks.models import Task, TaskPriority, TaskStatus, title_key
from app.tasks.ordering import Ordering
from app.tasks.schemas import TaskCreate

columns = Task.__table__.c
# What a session has of a task already becomes what the statement returns.
AS_STORED: dict[str, Any] = {"synchronize_session": False, "populate_existing": True}


def owned_by(actor: Actor) -> ColumnElement[bool]:
    """All tasks of the actor, those in the trash too, while the actor's credential is live."""
    return and_(Task.owner_id == actor.user_id, credential_is_live(actor))


def visible_to(actor: Actor) -> ColumnElement[bool]:
    """The tasks that the actor may see and change: what is in the trash is not there."""
    return and_(owned_by(actor), Task.deleted_at.is_(None))


def values_of(data: TaskCreate) -> dict[str, Any]:
    """A new task's values by the names of its columns, but for its owner and `completed_at`."""
    values = data.model_dump()
    return {**values, "title_key": title_key(data.title)}


def insert_task(actor: Actor, data: TaskCreate) -> InsertOrUpdate:
    """Insert a task if the actor's credential is live; returns the row or none."""
    values: dict[str, ColumnElement[Any]] = {
        name: literal(value, columns[name].type) for name, value in values_of(data).items()
    }
    values["owner_id"] = literal(actor.user_id, Task.owner_id.type)
    values["completed_at"] = func.now() if data.status is TaskStatus.COMPLETED else null()
    source = select(*values.values()).where(credential_is_live(actor))
    return insert_or_update(Task).from_select([columns[name] for name in values], source)


def select_task(actor: Actor, task_id: int) -> Select[Task]:
    return select(Task).where(Task.id == task_id, visible_to(actor))


def moment_of_change() -> ColumnElement[datetime]:
    # now() is when the statement began, which may be before another write that it waited for.
    return func.greatest(func.now(), Task.updated_at + timedelta(microseconds=1))


Values = dict[Any, Any]


def _with_consequences(values: Mapping[Any, ColumnElement[Any]]) -> Values:
    """New values of a row, with the version, `updated_at` and `completed_at` that follow.

    A write that changes nothing keeps all three.
    """
    changed = or_(*(column.is_distinct_from(value) for column, value in values.items()))
    moment = moment_of_change()
    consequences: Values = {
        Task.version: case((changed, Task.version + 1), else_=Task.version),
        Task.updated_at: case((changed, moment), else_=Task.updated_at),
    }
    status = values.get(columns["status"])
    if status is not None:
        consequences[Task.completed_at] = case(
            (status == TaskStatus.COMPLETED, func.coalesce(Task.completed_at, moment))
        )
    return {**values, **consequences}


def new_values(changes: Mapping[str, Any]) -> dict[KeyedColumnElement[Any], ColumnElement[Any]]:
    """What the columns of a merge patch become, computed on the row as it is when it is locked."""
    values: dict[KeyedColumnElement[Any], ColumnElement[Any]] = {
        columns[name]: literal(value, columns[name].type) for name, value in changes.items()
    }
    if "metadata" in changes:
        metadata = columns["metadata"]
        values[metadata] = func.merge_patch(metadata, values[metadata])
    if "title" in changes:
        values[columns["title_key"]] = literal(title_key(changes["title"]), Task.title_key.type)
    return values


def _in_version(versions: Collection[int] | None) -> ColumnElement[bool]:
    """Whether the task, when its lock is won, is in one of the versions; in any if not said."""
    return true() if versions is None else Task.version.in_(versions)


def update_task(
    actor: Actor, task_id: int, changes: Mapping[str, Any], versions: Collection[int] | None = None
) -> Update:
    """Apply a merge patch in one statement, on the row as it is when its lock is won.

    That is why two patches of different fields both stand. A patch that changes nothing keeps the
    version and `updated_at`.
    """
    statement = (
        update(Task)
        .where(Task.id == task_id, visible_to(actor), _in_version(versions))
        .values(_with_consequences(new_values(changes)))
    )
    return statement.execution_options(**AS_STORED)


def trash_task(actor: Actor, task_id: int, versions: Collection[int] | None = None) -> Update:
    moment = moment_of_change()
    statement = (
        update(Task)
        .where(Task.id == task_id, visible_to(actor), _in_version(versions))
        .values(deleted_at=moment, updated_at=moment, version=Task.version + 1)
    )
    return statement.execution_options(**AS_STORED)


def restore_task(actor: Actor, task_id: int, versions: Collection[int] | None = None) -> Update:
    """Take a task out of the trash; one that is not in there stays as it is."""
    trashed = Task.deleted_at.is_not(None)
    statement = (
        update(Task)
        .where(Task.id == task_id, owned_by(actor), _in_version(versions))
        .values(
            deleted_at=null(),
            updated_at=case((trashed, moment_of_change()), else_=Task.updated_at),
            version=case((trashed, Task.version + 1), else_=Task.version),
        )
    )
    return statement.execution_options(**AS_STORED)


def delete_task(actor: Actor, task_id: int, versions: Collection[int] | None = None) -> Delete:
    """Remove a task for good, from the trash too."""
    statement = delete(Task).where(Task.id == task_id, owned_by(actor), _in_version(versions))
    return statement.execution_options(**AS_STORED)


def task_exists(actor: Actor, task_id: int, *, in_trash_too: bool) -> Select[bool]:
    whose = owned_by(actor) if in_trash_too else visible_to(actor)
    return select(exists().where(Task.id == task_id, whose))


def _tag() -> ColumnElement[str]:
    return cast(Task.id, String) + "-" + cast(Task.version, String)


def put_task(
    actor: Actor, data: TaskCreate, *, if_match: EntityTags | None, if_none_match: EntityTags | None
) -> ReturningInsert[Task, bool] | ReturningUpdate[Task, bool]:
    """Create the task with this `external_id`, or make it what `data` says, in one statement.

    Returns the task and whether it was created. The conditions are those of the request. No row:
    they do not hold, or the credential has ended.
    """
    values = {
        columns[name]: literal(value, columns[name].type) for name, value in values_of(data).items()
    }
    holds: ColumnElement[bool] = true()
    if if_match is not None and not if_match.any:
        holds = _tag().in_(sorted(if_match.strong))
    if if_none_match is not None:
        unwanted = if_none_match.strong | if_none_match.weak
        holds = false() if if_none_match.any else and_(holds, _tag().not_in(sorted(unwanted)))
    new = _with_consequences(values)
    if if_match is not None:
        statement = (
            update(Task)
            .where(visible_to(actor), Task.external_id == data.external_id, holds)
            .values(new)
        )
        statement = statement.execution_options(**AS_STORED)
        return statement.returning(Task, literal_column("false", Boolean))
    upsert = insert_task(actor, data).on_conflict_do_update(
        index_elements=[Task.owner_id, Task.external_id],
        index_where=Task.deleted_at.is_(None),
        set_=new,
        where=holds,
    )
    # PostgreSQL marks a row that an ON CONFLICT has found, and not one that it has inserted.
    return upsert.returning(Task, literal_column("tasks.xmax = 0", Boolean))


def matching(actor: Actor, filters: TaskFilters) -> ColumnElement[bool]:
    """The actor's tasks outside the trash that pass the filters."""
    return and_(visible_to(actor), passes(filters))


def in_trash(actor: Actor) -> ColumnElement[bool]:
    return and_(owned_by(actor), Task.deleted_at.is_not(None))


def count_of(among: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(Task).where(among)


def count_by_status_and_priority(
    actor: Actor, filters: TaskFilters
) -> Select[TaskStatus, TaskPriority, int, int]:
    """How many tasks of each status and priority pass the filters, and how many are overdue."""
    return (
        select(
            Task.status,
            Task.priority,
            func.count(),
            func.count().filter(is_overdue(filters)),
        )
        .where(matching(actor, filters))
        .group_by(Task.status, Task.priority)
    )


def select_page(
    among: ColumnElement[bool], ordering: Ordering, query: PageQuery, position: list[Any] | None
) -> Select[Task, int | None]:
    """The tasks of a page `among` those that a condition holds for, each with the total if asked.

    With a `position` of the ordering they are those after it, and nothing is counted. There is one
    task more than the page has, if there is one.
    """
    page = select(Task).where(among).order_by(*ordering.order_by()).limit(query.per_page + 1)
    if position is not None:
        page = page.where(ordering.is_after(position))
    else:
        page = page.offset(query.offset)
    counted = position is None and query.count
    # In one statement, so that the total and the page are of the same moment.
    total = count_of(among).scalar_subquery() if counted else null()
    return page.add_columns(total)
