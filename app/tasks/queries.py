"""Every statement on tasks. Each is guarded: no row is seen or written for an ended credential."""

from datetime import timedelta
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

from app.accounts.credentials import Actor, credential_is_live
from app.tasks.models import Task, TaskStatus
from app.tasks.schemas import TaskCreate, TaskQuery


def visible_to(actor: Actor) -> ColumnElement[bool]:
    """The tasks that the actor may see and change: every statement on tasks starts from here."""
    return and_(Task.owner_id == actor.user_id, credential_is_live(actor))


def insert_task(actor: Actor, data: TaskCreate) -> Insert:
    """Insert a task if the actor's credential is live; returns the row or none."""
    values: dict[str, Any] = data.model_dump()
    columns = {name: literal(value, Task.__table__.c[name].type) for name, value in values.items()}
    columns["owner_id"] = literal(actor.user_id, Task.owner_id.type)
    columns["completed_at"] = (
        func.now() if data.status is TaskStatus.COMPLETED else null()  # type: ignore[assignment]  # any SQL expression
    )
    source = select(*columns.values()).where(credential_is_live(actor))
    return insert(Task).from_select(list(columns), source)


def select_task(actor: Actor, task_id: int) -> Select[Task]:
    return select(Task).where(Task.id == task_id, visible_to(actor))


def update_task(actor: Actor, task_id: int, changes: dict[str, Any]) -> Update:
    """Apply a patch in one statement, on the row as it is when its lock is won.

    That is why two patches of different fields both stand. A patch that changes nothing keeps the
    version and `updated_at`.
    """
    columns = Task.__table__.c
    changed = or_(*(columns[name].is_distinct_from(value) for name, value in changes.items()))
    # now() is when the statement began, which may be before another patch that it waited for.
    moment = func.greatest(func.now(), Task.updated_at + timedelta(microseconds=1))
    values: dict[str, Any] = {
        **changes,
        "version": case((changed, Task.version + 1), else_=Task.version),
        "updated_at": case((changed, moment), else_=Task.updated_at),
    }
    if "status" in changes:
        values["completed_at"] = (
            func.coalesce(Task.completed_at, moment)
            if changes["status"] is TaskStatus.COMPLETED
            else null()
        )
    statement = update(Task).where(Task.id == task_id, visible_to(actor)).values(values)
    return statement.execution_options(synchronize_session=False)


def delete_task(actor: Actor, task_id: int) -> Delete:
    statement = delete(Task).where(Task.id == task_id, visible_to(actor))
    return statement.execution_options(synchronize_session=False)


def _matching(actor: Actor, query: TaskQuery) -> ColumnElement[bool]:
    conditions = [visible_to(actor)]
    if query.status:
        conditions.append(Task.status.in_(query.status))
    if query.priority:
        conditions.append(Task.priority.in_(query.priority))
    return and_(*conditions)


def select_page(actor: Actor, query: TaskQuery) -> Select[Task]:
    """A page of the matching tasks, newest first; the id breaks ties."""
    return (
        select(Task)
        .where(_matching(actor, query))
        .order_by(Task.created_at.desc(), Task.id.desc())
        .limit(query.per_page)
        .offset(query.offset)
    )


def count_matching(actor: Actor, query: TaskQuery) -> Select[int]:
    return select(func.count()).select_from(Task).where(_matching(actor, query))
