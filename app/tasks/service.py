"""What can be done with tasks."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import MISSING
from sqlalchemy import ColumnElement
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.credentials import Actor, ensure_credential_is_live
from app.accounts.errors import Unauthenticated
from app.core.conditions import EntityTags
from app.core.errors import APIError, ValidationFailed
from app.core.pagination import CursorSigner, PageQuery, invalid_cursor
from app.core.responses import FieldError, FieldErrorCode
from app.db.errors import violated_constraint
from app.tasks import queries
from app.tasks.errors import ExternalIdTaken, TaskNotFound, VersionConflict
from app.tasks.fields import METADATA_TOO_DEEP, METADATA_TOO_LARGE
from app.tasks.filters import TaskFilters
from app.tasks.models import (
    METADATA_DEPTH,
    METADATA_SIZE,
    ONE_DUE,
    UNIQUE_EXTERNAL_ID,
    Task,
    TaskPriority,
    TaskStatus,
)
from app.tasks.ordering import NEWEST_DELETION_FIRST, Ordering, ordering_of
from app.tasks.schemas import (
    PriorityCounts,
    StatusCounts,
    TaskCreate,
    TaskPage,
    TaskQuery,
    TaskStats,
    TaskUpdate,
    TrashPage,
    TrashQuery,
)


def _invalid(field: str, message: str, code: FieldErrorCode = "invalid") -> ValidationFailed:
    return ValidationFailed(errors=[FieldError(field=f"body.{field}", message=message, code=code)])


def refusal_of(constraint: str | None, given: Mapping[str, Any]) -> APIError | None:
    """What a constraint's refusal of the `given` fields means to a client; None for a bug."""
    match constraint:
        case "fk_tasks_owner_id":
            # The account was closed after the statement had begun.
            return Unauthenticated()
        case str(name) if name == UNIQUE_EXTERNAL_ID:
            return ExternalIdTaken()
        case str(name) if name == METADATA_SIZE:
            return _invalid("metadata", METADATA_TOO_LARGE, "too_long")
        case str(name) if name == METADATA_DEPTH:
            return _invalid("metadata", METADATA_TOO_DEEP, "out_of_range")
        case str(name) if name == ONE_DUE:
            field, other = ("due_at", "due_on") if given.get("due_at") else ("due_on", "due_at")
            return _invalid(field, f"Set {other} to null with it: a task is due in one way")
    return None


@contextmanager
def refusals_told(given: Mapping[str, Any]) -> Iterator[None]:
    """Turn what the database refuses of the `given` fields into the errors of the contract."""
    try:
        yield
    except IntegrityError as error:
        refusal = refusal_of(violated_constraint(error), given)
        if refusal is None:
            raise
        raise refusal from None


async def create_task(session: AsyncSession, actor: Actor, data: TaskCreate) -> Task:
    """Store a task.

    Raises `ExternalIdTaken`, `ValidationFailed` for metadata whose numbers grow too long when they
    are written out, and `Unauthenticated` if the actor's credential has ended.
    """
    statement = queries.insert_task(actor, data).returning(Task)
    with refusals_told(data.model_dump()):
        task = (await session.scalars(statement)).one_or_none()
    if task is None:
        raise Unauthenticated
    return task


async def read_task(session: AsyncSession, actor: Actor, task_id: int) -> Task:
    """The task. Raises `TaskNotFound`."""
    task = (await session.scalars(queries.select_task(actor, task_id))).one_or_none()
    if task is None:
        raise TaskNotFound
    return task


async def _explain_absence(
    session: AsyncSession,
    actor: Actor,
    task_id: int,
    versions: Collection[int] | None,
    *,
    in_trash_too: bool = False,
) -> NoReturn:
    """Raise what a write means that found no row: `TaskNotFound` or `VersionConflict`.

    Without a condition the task was not there, though it may have come out of the trash since.
    """
    exists = queries.task_exists(actor, task_id, in_trash_too=in_trash_too)
    if versions is not None and await session.scalar(exists):
        raise VersionConflict
    raise TaskNotFound


async def update_task(
    session: AsyncSession,
    actor: Actor,
    task_id: int,
    data: TaskUpdate,
    *,
    versions: Collection[int] | None = None,
) -> Task:
    """Apply a merge patch to a task in one of the `versions` and return it as it is then.

    Raises `TaskNotFound`, `VersionConflict`, `ExternalIdTaken`, and `ValidationFailed` if the task
    that would result is due in two ways or has too much metadata.
    """
    changes = data.model_dump()
    if not changes:
        task = await read_task(session, actor, task_id)
        if versions is not None and task.version not in versions:
            raise VersionConflict
        return task
    statement = queries.update_task(actor, task_id, changes, versions).returning(Task)
    with refusals_told(changes):
        changed = (await session.scalars(statement)).one_or_none()
    if changed is None:
        await _explain_absence(session, actor, task_id, versions)
    return changed


async def delete_task(
    session: AsyncSession,
    actor: Actor,
    task_id: int,
    *,
    permanent: bool = False,
    versions: Collection[int] | None = None,
) -> None:
    """Move the task to the trash; if `permanent`, remove it for good, from the trash too.

    Raises `TaskNotFound`, and `VersionConflict` if the task is in none of the `versions`.
    """
    delete = queries.delete_task if permanent else queries.trash_task
    statement = delete(actor, task_id, versions).returning(Task.id)
    if await session.scalar(statement) is None:
        await _explain_absence(session, actor, task_id, versions, in_trash_too=permanent)


async def restore_task(
    session: AsyncSession, actor: Actor, task_id: int, *, versions: Collection[int] | None = None
) -> Task:
    """Take the task out of the trash, if it is there, and return it.

    Raises `TaskNotFound`, `VersionConflict` if it is in none of the `versions`, and
    `ExternalIdTaken` if another task has its `external_id` by now.
    """
    statement = queries.restore_task(actor, task_id, versions).returning(Task)
    with refusals_told({}):
        task = (await session.scalars(statement)).one_or_none()
    if task is None:
        await _explain_absence(session, actor, task_id, versions, in_trash_too=True)
    return task


async def put_task(
    session: AsyncSession,
    actor: Actor,
    data: TaskCreate,
    *,
    if_match: EntityTags | None = None,
    if_none_match: EntityTags | None = None,
) -> tuple[Task, bool]:
    """Create or replace the task with the `external_id` of `data`, in one statement.

    Returns the task and whether it was created. Raises `VersionConflict` if a condition does not
    hold, `ValidationFailed` as `create_task` does, and `Unauthenticated`.
    """
    statement = queries.put_task(actor, data, if_match=if_match, if_none_match=if_none_match)
    with refusals_told(data.model_dump()):
        rows = await session.execute(statement)
    row = rows.one_or_none()
    if row is None:
        await ensure_credential_is_live(session, actor)
        raise VersionConflict
    return row[0], row[1]


async def count_tasks(session: AsyncSession, actor: Actor, filters: TaskFilters) -> TaskStats:
    """How many of the actor's tasks pass the filters, by status and by priority."""
    rows = (await session.execute(queries.count_by_status_and_priority(actor, filters))).all()
    if not rows:
        await ensure_credential_is_live(session, actor)
    by_status = dict.fromkeys(TaskStatus, 0)
    by_priority = dict.fromkeys(TaskPriority, 0)
    for status, priority, count, _ in rows:
        by_status[status] += count
        by_priority[priority] += count
    return TaskStats(
        total=sum(by_status.values()),
        overdue=sum(overdue for *_, overdue in rows),
        by_status=StatusCounts.model_validate(by_status),
        by_priority=PriorityCounts.model_validate(by_priority),
    )


async def list_tasks(
    session: AsyncSession, actor: Actor, query: TaskQuery, *, cursors: CursorSigner
) -> TaskPage:
    """A page of the actor's tasks that pass the filters. Raises `ValidationFailed` for a cursor."""
    page = await _read_page(
        session,
        actor,
        among=queries.matching(actor, query),
        ordering=ordering_of(query.sort),
        query=query,
        cursors=cursors,
    )
    return TaskPage.model_validate(page)


async def list_trash(
    session: AsyncSession, actor: Actor, query: TrashQuery, *, cursors: CursorSigner
) -> TrashPage:
    """A page of what the actor has in the trash. Raises `ValidationFailed` for a cursor."""
    page = await _read_page(
        session,
        actor,
        among=queries.in_trash(actor),
        ordering=NEWEST_DELETION_FIRST,
        query=query,
        cursors=cursors,
    )
    return TrashPage.model_validate(page)


@dataclass(frozen=True, slots=True)
class _Page:
    tasks: list[Task]
    total: int | None
    page: int | None
    pages: int | None
    next_cursor: str | None


# Not among the filters that a cursor is bound to.
_PAGING = {"page", "per_page", "count", "cursor"}


async def _read_page(
    session: AsyncSession,
    actor: Actor,
    *,
    among: ColumnElement[bool],
    ordering: Ordering,
    query: PageQuery,
    cursors: CursorSigner,
) -> _Page:
    asked = query.model_dump(mode="json", exclude=_PAGING)
    binding = [
        actor.user_id,
        type(query).__name__,
        {
            name: sorted(value) if isinstance(value, list) else value
            for name, value in asked.items()
        },
    ]
    position = None
    if query.cursor is not MISSING:
        if "page" in query.model_fields_set:
            raise invalid_cursor()
        position = cursors.open(query.cursor, binding)
    statement = queries.select_page(among, ordering, query, position)
    rows = (await session.execute(statement)).all()
    total: int | None = None
    if position is None and query.count:
        if rows:
            total = rows[0][1]
        else:
            # A page past the end has no row that could tell the total. What others have added since
            # it was read is not counted: it would be on this page.
            count = await session.scalar(queries.count_of(among)) if query.offset else None
            total = min(count or 0, query.offset)
    if not rows:
        # An ended credential sees nothing either, and must be told so.
        await ensure_credential_is_live(session, actor)
    tasks = [row[0] for row in rows[: query.per_page]]
    more = len(rows) > query.per_page
    return _Page(
        tasks=tasks,
        total=total,
        page=query.page if position is None else None,
        pages=None if total is None else query.pages(total),
        next_cursor=cursors.make(ordering.position_of(tasks[-1]), binding) if more else None,
    )
