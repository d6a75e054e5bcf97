"""Every statement on tasks. Each is guarded: no row is seen or written for an ended credential."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Insert,
    Select,
    Update,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.elements import KeyedColumnElement

from app.accounts.credentials import Actor, credential_is_live
from app.core.pagination import PageQuery
from app.tasks.filters import TaskFilters, passes
from app.tasks.models import Task, TaskStatus, title_key
from app.tasks.ordering import Ordering
from app.tasks.schemas import TaskCreate

columns = Task.__table__.c


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


def insert_task(actor: Actor, data: TaskCreate) -> Insert:
    """Insert a task if the actor's credential is live; returns the row or none."""
    values: dict[str, ColumnElement[Any]] = {
        name: literal(value, columns[name].type) for name, value in values_of(data).items()
    }
    values["owner_id"] = literal(actor.user_id, Task.owner_id.type)
    values["completed_at"] = func.now() if data.status is TaskStatus.COMPLETED else null()
    source = select(*values.values()).where(credential_is_live(actor))
    return insert(Task).from_select([columns[name] for name in values], source)


def select_task(actor: Actor, task_id: int) -> Select[Task]:
    return select(Task).where(Task.id == task_id, visible_to(actor))


def _moment_of_change() -> ColumnElement[datetime]:
    # now() is when the statement began, which may be before another write that it waited for.
    return func.greatest(func.now(), Task.updated_at + timedelta(microseconds=1))


def new_values(changes: Mapping[str, Any]) -> dict[KeyedColumnElement[Any], ColumnElement[Any]]:
    """What the columns of a merge patch become, computed on the row as it is when it is locked."""
    values: dict[KeyedColumnElement[Any], ColumnElement[Any]] = {
        columns[name]: literal(value, columns[name].type) for name, value in changes.items()
    }
    if "metadata" in changes:
        metadata = columns["metadata"]
        values[metadata] = func.merge_patch(metadata, values[metadata])
    return values


def update_task(actor: Actor, task_id: int, changes: Mapping[str, Any]) -> Update:
    """Apply a merge patch in one statement, on the row as it is when its lock is won.

    That is why two patches of different fields both stand. A patch that changes nothing keeps the
    version and `updated_at`.
    """
    values: dict[Any, Any] = dict(new_values(changes))
    changed = or_(*(column.is_distinct_from(value) for column, value in values.items()))
    moment = _moment_of_change()
    if "title" in changes:
        values[Task.title_key] = title_key(changes["title"])
    if "status" in changes:
        values[Task.completed_at] = (
            func.coalesce(Task.completed_at, moment)
            if changes["status"] is TaskStatus.COMPLETED
            else null()
        )
    values[Task.version] = case((changed, Task.version + 1), else_=Task.version)
    values[Task.updated_at] = case((changed, moment), else_=Task.updated_at)
    statement = update(Task).where(Task.id == task_id, visible_to(actor)).values(values)
    return statement.execution_options(synchronize_session=False)


def trash_task(actor: Actor, task_id: int) -> Update:
    moment = _moment_of_change()
    statement = (
        update(Task)
        .where(Task.id == task_id, visible_to(actor))
        .values(deleted_at=moment, updated_at=moment, version=Task.version + 1)
    )
    return statement.execution_options(synchronize_session=False)


def delete_task(actor: Actor, task_id: int) -> Delete:
    """Remove a task for good, from the trash too."""
    statement = delete(Task).where(Task.id == task_id, owned_by(actor))
    return statement.execution_options(synchronize_session=False)


def matching(actor: Actor, filters: TaskFilters) -> ColumnElement[bool]:
    """The actor's tasks outside the trash that pass the filters."""
    return and_(visible_to(actor), passes(filters))


def in_trash(actor: Actor) -> ColumnElement[bool]:
    return and_(owned_by(actor), Task.deleted_at.is_not(None))


def count_of(among: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(Task).where(among)


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
