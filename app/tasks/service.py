"""What can be done with tasks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import MISSING
from sqlalchemy import ColumnElement
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.credentials import Actor, ensure_credential_is_live
from app.accounts.errors import Unauthenticated
from app.core.errors import APIError, ValidationFailed
from app.core.pagination import CursorSigner, PageQuery, invalid_cursor
from app.core.responses import FieldError, FieldErrorCode
from app.db.errors import violated_constraint
from app.tasks import queries
from app.tasks.errors import ExternalIdTaken, TaskNotFound
from app.tasks.fields import METADATA_TOO_DEEP, METADATA_TOO_LARGE
from app.tasks.models import METADATA_DEPTH, METADATA_SIZE, ONE_DUE, UNIQUE_EXTERNAL_ID, Task
from app.tasks.ordering import Ordering, ordering_of
from app.tasks.schemas import TaskCreate, TaskPage, TaskQuery, TaskUpdate


def _invalid(field: str, message: str, code: FieldErrorCode = "invalid") -> ValidationFailed:
    return ValidationFailed(errors=[FieldError(field=f"body.{field}", message=message, code=code)])


def refusal_of(error: IntegrityError, given: Mapping[str, Any]) -> APIError | None:
    """What a constraint's refusal of the `given` fields means to a client; None for a bug."""
    match violated_constraint(error):
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
        refusal = refusal_of(error, given)
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


async def update_task(session: AsyncSession, actor: Actor, task_id: int, data: TaskUpdate) -> Task:
    """Apply a merge patch and return the task as it is then.

    Raises `TaskNotFound`, `ExternalIdTaken`, and `ValidationFailed` if the task that would result
    is due in two ways or has too much metadata.
    """
    changes = data.model_dump()
    if not changes:
        return await read_task(session, actor, task_id)
    statement = queries.update_task(actor, task_id, changes).returning(Task)
    with refusals_told(changes):
        task = (await session.scalars(statement)).one_or_none()
    if task is None:
        raise TaskNotFound
    return task


async def delete_task(
    session: AsyncSession, actor: Actor, task_id: int, *, permanent: bool = False
) -> None:
    """Move the task to the trash; if `permanent`, remove it for good, from the trash too.

    Raises `TaskNotFound`.
    """
    delete = queries.delete_task if permanent else queries.trash_task
    statement = delete(actor, task_id).returning(Task.id)
    if await session.scalar(statement) is None:
        raise TaskNotFound


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
        # A page past the end has no row that could tell the total.
        total = rows[0][1] if rows else await session.scalar(queries.count_of(among))
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
