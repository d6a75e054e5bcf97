"""What can be done with tasks."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from pydantic import MISSING

from app.accounts.credentials import Actor, ensure_credential_is_live, values_of_actor
from app.accounts.errors import Unauthenticated
from app.core.conditions import EntityTags
from app.core.errors import APIError, ValidationFailed
from app.core.pagination import CursorSigner, PageQuery, invalid_cursor
from app.core.responses import FieldError, FieldErrorCode
from app.db.errors import ConstraintViolations, violated_constraint
from app.db.session import Session
from app.tasks import queries
from app.tasks.errors import ExternalIdTaken, TaskNotFound, VersionConflict
from app.tasks.fields import METADATA_TOO_DEEP, METADATA_TOO_LARGE
from app.tasks.filters import TaskFilters, given, values_by_parameter, without_values
from app.tasks.models import (
    METADATA_DEPTH,
    METADATA_SIZE,
    ONE_DUE,
    UNIQUE_EXTERNAL_ID,
    TaskPriority,
    TaskStatus,
)
from app.tasks.ordering import Sort
from app.tasks.schemas import (
    PriorityCounts,
    StatusCounts,
    TaskCreate,
    TaskPage,
    TaskQuery,
    TaskRead,
    TaskStats,
    TaskUpdate,
    TrashedTaskRead,
    TrashPage,
    TrashQuery,
)

PageT = TypeVar("PageT", TaskPage, TrashPage)


def _invalid(field: str, message: str, code: FieldErrorCode = "invalid") -> ValidationFailed:
    return ValidationFailed(errors=[FieldError(field=f"body.{field}", message=message, code=code)])


def refusal_of(constraint: str | None, given: Mapping[str, Any]) -> APIError | None:
    """What a constraint's refusal of the `given` fields means to a client; None for a bug."""
    match constraint:
        case "fk_tasks_owner_id":
            # The account was closed after the statement had begun.
            return Unauthenticated()
        case str(name) if name == UNIQUE_EXTERNAL_ID:
            fault = FieldError(
                field="body.external_id", message=ExternalIdTaken.message, code="duplicate"
            )
            # Whoever restores a task gives none.
            return ExternalIdTaken(errors=[fault] if given.get("external_id") else [])
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
    except ConstraintViolations as error:
        refusal = refusal_of(violated_constraint(error), given)
        if refusal is None:
            raise
        raise refusal from None


async def create_task(session: Session, actor: Actor, data: TaskCreate) -> TaskRead:
    """Store a task.

    Raises `ExternalIdTaken`, `ValidationFailed` for metadata whose numbers grow too long when they
    are written out, and `Unauthenticated` if the actor's credential has ended.
    """
    values = queries.values_of(data)
    with refusals_told(values):
        rows = await session.fetch(queries.CREATE_TASK, values | values_of_actor(actor))
    if not rows:
        raise Unauthenticated
    return TaskRead.of_row(rows[0])


async def read_task(session: Session, actor: Actor, task_id: int) -> TaskRead:
    """The task. Raises `TaskNotFound`."""
    rows = await session.fetch(queries.READ_TASK, {"task_id": task_id, **values_of_actor(actor)})
    if not rows:
        raise TaskNotFound
    return TaskRead.of_row(rows[0])


def _of_task(actor: Actor, task_id: int, versions: Collection[int] | None) -> dict[str, Any]:
    versions = None if versions is None else sorted(versions)
    return {"task_id": task_id, "versions": versions, **values_of_actor(actor)}


async def _explain_absence(
    session: Session,
    actor: Actor,
    task_id: int,
    versions: Collection[int] | None,
    *,
    in_trash_too: bool = False,
) -> NoReturn:
    """Raise why a write has found no row: `TaskNotFound` or `VersionConflict`.

    Without a condition only `TaskNotFound` is left, whatever has become of the task since.
    """
    if versions is not None:
        exists = queries.TASK_EXISTS_IN_TRASH_TOO if in_trash_too else queries.TASK_EXISTS
        rows = await session.fetch(exists, {"task_id": task_id, **values_of_actor(actor)})
        if rows[0]["is_there"]:
            raise VersionConflict
    raise TaskNotFound


async def update_task(
    session: Session,
    actor: Actor,
    task_id: int,
    data: TaskUpdate,
    *,
    versions: Collection[int] | None = None,
) -> TaskRead:
    """Apply a merge patch to a task in one of the `versions` and return it as it is then.

    Raises `TaskNotFound`, `VersionConflict`, `ExternalIdTaken`, and `ValidationFailed` if the task
    that would result is due in two ways or has too much metadata.
    """
    changes = {name: getattr(data, name) for name in data.model_fields_set}
    if not changes:
        task = await read_task(session, actor, task_id)
        if versions is not None and task.version not in versions:
            raise VersionConflict
        return task
    values = queries.changed_values(changes)
    statement = queries.update_task(frozenset(values))
    with refusals_told(changes):
        rows = await session.fetch(statement, values | _of_task(actor, task_id, versions))
    if not rows:
        await _explain_absence(session, actor, task_id, versions)
    return TaskRead.of_row(rows[0])


async def delete_task(
    session: Session,
    actor: Actor,
    task_id: int,
    *,
    permanent: bool = False,
    versions: Collection[int] | None = None,
) -> None:
    """Move the task to the trash; if `permanent`, remove it for good, from the trash too.

    Raises `TaskNotFound`, and `VersionConflict` if the task is in none of the `versions`.
    """
    statement = queries.DELETE_TASK if permanent else queries.TRASH_TASK
    if not await session.fetch(statement, _of_task(actor, task_id, versions)):
        await _explain_absence(session, actor, task_id, versions, in_trash_too=permanent)


async def restore_task(
    session: Session, actor: Actor, task_id: int, *, versions: Collection[int] | None = None
) -> TaskRead:
    """Take the task out of the trash, if it is there, and return it.

    Raises `TaskNotFound`, `VersionConflict` if it is in none of the `versions`, and
    `ExternalIdTaken` if another task has its `external_id` by now.
    """
    with refusals_told({}):
        rows = await session.fetch(queries.RESTORE_TASK, _of_task(actor, task_id, versions))
    if not rows:
        await _explain_absence(session, actor, task_id, versions, in_trash_too=True)
    return TaskRead.of_row(rows[0])


async def put_task(
    session: Session,
    actor: Actor,
    data: TaskCreate,
    *,
    if_match: EntityTags | None = None,
    if_none_match: EntityTags | None = None,
) -> tuple[TaskRead, bool]:
    """Create or replace the task with the `external_id` of `data`, in one statement.

    Returns the task and whether it was created. Raises `VersionConflict` if a condition does not
    hold, `ValidationFailed` as `create_task` does, and `Unauthenticated`.
    """
    statement = queries.put_task(if_match=_form_of(if_match), if_none_match=_form_of(if_none_match))
    values = queries.values_of(data) | queries.values_of_conditions(if_match, if_none_match)
    with refusals_told(values):
        rows = await session.fetch(statement, values | values_of_actor(actor))
    if not rows:
        await ensure_credential_is_live(session, actor)
        raise VersionConflict
    return TaskRead.of_row(rows[0]), rows[0]["is_new"]


def _form_of(condition: EntityTags | None) -> queries.Condition:
    if condition is None:
        return None
    return "any" if condition.any else "tags"


async def count_tasks(session: Session, actor: Actor, filters: TaskFilters) -> TaskStats:
    """How many of the actor's tasks pass the filters, by status and by priority."""
    given_filters = given(filters)
    now = datetime.now(UTC)
    rows = await session.fetch(
        queries.count_by_status_and_priority(without_values(given_filters)),
        {
            **values_by_parameter(given_filters),
            **dict(zip(queries.NOW, (now, filters.day_of(now)), strict=True)),
            **values_of_actor(actor),
        },
    )
    if not rows:
        await ensure_credential_is_live(session, actor)
    by_status = dict.fromkeys(TaskStatus, 0)
    by_priority = dict.fromkeys(TaskPriority, 0)
    for row in rows:
        by_status[row["status"]] += row["count"]
        by_priority[row["priority"]] += row["count"]
    return TaskStats(
        total=sum(by_status.values()),
        overdue=sum(row["overdue"] for row in rows),
        by_status=StatusCounts.model_validate(by_status),
        by_priority=PriorityCounts.model_validate(by_priority),
    )


async def list_tasks(
    session: Session, actor: Actor, query: TaskQuery, *, cursors: CursorSigner
) -> TaskPage:
    """A page of the actor's tasks that pass the filters. Raises `ValidationFailed` for a cursor."""
    filters = given(query)
    asked = {one.name: getattr(query, one.name) for one in filters}
    binding = {
        "sort": query.sort,
        "time_zone": query.time_zone,
        **{k: sorted({*v}) if isinstance(v, list) else v for k, v in asked.items()},
    }
    return await _read_page(
        session,
        actor,
        query,
        of=_List(
            queries.Listed(without_values(filters)),
            values_by_parameter(filters),
            query.sort,
            binding,
        ),
        into=(TaskPage, TaskRead),
        cursors=cursors,
    )


async def list_trash(
    session: Session, actor: Actor, query: TrashQuery, *, cursors: CursorSigner
) -> TrashPage:
    """A page of what the actor has in the trash. Raises `ValidationFailed` for a cursor."""
    trash = _List(queries.Listed(None), {}, None, "trash")
    into = (TrashPage, TrashedTaskRead)
    return await _read_page(session, actor, query, of=trash, into=into, cursors=cursors)


@dataclass(frozen=True, slots=True)
class _List:
    """What is listed, the values of its filters, its order, and what its cursors are bound to."""

    listed: queries.Listed
    values: dict[str, Any]
    sort: Sort | None
    binding: object


async def _read_page(
    session: Session,
    actor: Actor,
    query: PageQuery,
    *,
    of: _List,
    into: tuple[type[PageT], type[TaskRead]],
    cursors: CursorSigner,
) -> PageT:
    page_model, task_model = into
    binding = [actor.user_id, of.binding]
    values = {**of.values, **values_of_actor(actor), "offset": query.offset}
    page = queries.Page(
        of.listed, of.sort, query.per_page, counted=query.count, offset=query.offset > 0
    )
    ordering = page.ordering
    by_cursor = query.cursor is not MISSING
    if query.cursor is not MISSING:
        if "page" in query.model_fields_set:
            raise invalid_cursor("A cursor and a page are not taken together")
        key, values["after_id"] = cursors.open(query.cursor, binding)
        infinite = ordering.infinity(key) is not None
        page = page._replace(counted=False, after=True, infinity=key if infinite else None)
        values["after_key"] = None if infinite else ordering.parse(key)
    rows = await session.fetch(queries.select_page(page), values)
    total: int | None = None
    if page.counted:
        total = rows[0]["total"] if rows else 0
        if not rows and query.offset:
            # A page past the end has no row that could tell the total. What others have added since
            # it was read is not counted: it would be on this page.
            counted = await session.fetch(queries.count_listed(of.listed), values)
            total = min(counted[0]["total"], query.offset)
    if not rows:
        # An ended credential sees nothing either, and must be told so.
        await ensure_credential_is_live(session, actor)
    tasks = [task_model.of_row(row) for row in rows[: query.per_page]]
    next_cursor = None
    if len(rows) > query.per_page:
        next_cursor = cursors.make(ordering.position_of(rows[query.per_page - 1]), binding)
    return page_model.trusted(
        {
            "total": total,
            "page": None if by_cursor else query.page,
            "pages": None if total is None else query.pages(total),
            "next_cursor": next_cursor,
            "tasks": tasks,
        }
    )
