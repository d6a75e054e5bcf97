"""Tasks, only ever the caller's own."""

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.accounts.credentials import CurrentUser, requires
from app.core.bounds import NO_NUL
from app.core.conditions import IfMatch, IfNoneMatch
from app.core.errors import NotFound, ValidationFailed, document_errors
from app.core.pagination import LINK_HEADER, Cursors, add_links
from app.core.responses import FieldError, document_links
from app.core.routing import API, StrictRoute
from app.db.session import SessionDep
from app.tasks import service
from app.tasks.conditions import (
    ETAG_HEADER,
    carry,
    entity_tag,
    if_match,
    if_none_match,
    versions_named,
)
from app.tasks.errors import (
    ExternalIdTaken,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    NoExternalId,
    TaskNotFound,
    VersionConflict,
)
from app.tasks.fields import TaskId
from app.tasks.filters import TaskFilters
from app.tasks.idempotency import DOCUMENTED_HEADER, REPLAYED_HEADER, IdempotentRoute
from app.tasks.models import EXTERNAL_ID_MAX_LENGTH
from app.tasks.schemas import (
    TaskCreate,
    TaskDeletedResponse,
    TaskDeletion,
    TaskListResponse,
    TaskQuery,
    TaskReplace,
    TaskResponse,
    TaskStatsResponse,
    TaskUpdate,
    TrashListResponse,
    TrashQuery,
)

router = APIRouter(prefix=f"{API}/tasks", tags=["tasks"], route_class=StrictRoute)
repeatable = APIRouter(prefix=f"{API}/tasks", tags=["tasks"], route_class=IdempotentRoute)
"""Writes that are safe to repeat with an `Idempotency-Key`."""

LOCATION_HEADER = {
    "Location": {
        "description": "Where the new task is from now on, as a relative reference.",
        "required": True,
        "schema": {
            "type": "string",
            "format": "uri-reference",
            "maxLength": 1_000,
            "examples": ["/api/v1/tasks/7"],
        },
    },
}
TASK_LINKS = document_links("task_id", "read_task", "update_task", "delete_task", "restore_task")


@repeatable.post(
    "",
    status_code=201,
    summary="Create a task",
    dependencies=[requires("tasks:write")],
    responses={
        **document_errors(ExternalIdTaken, IdempotencyInFlight, IdempotencyKeyReused),
        201: {
            "headers": ETAG_HEADER | LOCATION_HEADER | REPLAYED_HEADER,
            "links": TASK_LINKS,
        },
    },
    openapi_extra=DOCUMENTED_HEADER,
)
async def create_task(
    data: TaskCreate, actor: CurrentUser, session: SessionDep, response: Response
) -> TaskResponse:
    """Store a new task of the caller. `Location` tells where it is from then on."""
    task = await service.create_task(session, actor, data)
    response.headers["Location"] = f"{API}/tasks/{task.id}"
    carry(response, task)
    return TaskResponse(message="Task created", data=task)


@router.get(
    "",
    summary="List tasks",
    dependencies=[requires("tasks:read")],
    responses={200: {"headers": LINK_HEADER}},
)
async def list_tasks(
    query: Annotated[TaskQuery, Query()],
    actor: CurrentUser,
    session: SessionDep,
    cursors: Cursors,
    request: Request,
    response: Response,
) -> TaskListResponse:
    """The caller's tasks that pass all filters, newest first unless sorted otherwise.

    By `page`, with exact totals; a page past the end is an empty list. Or by `cursor`, which is for
    walking through all of it: every task that stays as it is meanwhile is met exactly once.
    """
    page = await service.list_tasks(session, actor, query, cursors=cursors)
    add_links(request, response, query, pages=page.pages, next_cursor=page.next_cursor)
    return TaskListResponse(data=page)


@router.get(
    "/stats",
    summary="Count tasks",
    dependencies=[requires("tasks:read")],
)
async def read_task_stats(
    filters: Annotated[TaskFilters, Query()], actor: CurrentUser, session: SessionDep
) -> TaskStatsResponse:
    """How many of the caller's tasks pass the filters, by status and by priority."""
    return TaskStatsResponse(data=await service.count_tasks(session, actor, filters))


@router.get(
    "/trash",
    summary="List the trash",
    dependencies=[requires("tasks:read")],
    responses={200: {"headers": LINK_HEADER}},
)
async def list_trash(
    query: Annotated[TrashQuery, Query()],
    actor: CurrentUser,
    session: SessionDep,
    cursors: Cursors,
    request: Request,
    response: Response,
) -> TrashListResponse:
    """The caller's deleted tasks, the newest deletion first, until they are removed for good."""
    page = await service.list_trash(session, actor, query, cursors=cursors)
    add_links(request, response, query, pages=page.pages, next_cursor=page.next_cursor)
    return TrashListResponse(data=page)


async def _external_id(
    request: Request,
    external_id: Annotated[
        str,
        Path(
            min_length=1,
            max_length=EXTERNAL_ID_MAX_LENGTH,
            pattern=NO_NUL,
            description=(
                "What another system calls the task. It is one part of the path, in which clients "
                "percent-encode it, slashes too: `crm%2F4711`."
            ),
            examples=["crm/4711"],
        ),
    ],
) -> str:
    """The name in the path as it was sent: the decoded path has lost what is not in UTF-8."""
    raw: bytes | None = request.scope.get("raw_path")
    if raw is None:
        # Not every server passes it on.
        return external_id
    encoded = raw.partition(b"/tasks/external/")[2]
    try:
        sent = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        fault = FieldError(field="path.external_id", message="This is not UTF-8", code="invalid")
        raise ValidationFailed(errors=[fault]) from None
    if b"/" in encoded:
        raise NoExternalId
    if sent != external_id:
        # A part of the route was percent-encoded.
        raise NotFound
    return sent


@router.put(
    "/external/{external_id:external_id}",
    summary="Create or replace a task by its external id",
    dependencies=[requires("tasks:write")],
    responses={
        **document_errors(NoExternalId, VersionConflict),
        200: {"description": "The task is replaced.", "headers": ETAG_HEADER},
        201: {
            "description": "The task is created.",
            "model": TaskResponse,
            "headers": ETAG_HEADER | LOCATION_HEADER,
            "links": TASK_LINKS,
        },
    },
)
async def put_task(
    external_id: Annotated[str, Depends(_external_id)],
    data: TaskReplace,
    if_match_lines: IfMatch,
    if_none_match_lines: IfNoneMatch,
    actor: CurrentUser,
    session: SessionDep,
    response: Response,
) -> TaskResponse:
    """Make the task that another system calls so what the body says: absent fields get defaults.

    Safe to repeat: equal content keeps the `version`. With `If-None-Match: *` a task is only
    created, with `If-Match` only replaced.
    """
    task, created = await service.put_task(
        session,
        actor,
        # Both have been validated.
        TaskCreate.model_construct(**dict(data), external_id=external_id),
        if_match=if_match(if_match_lines),
        if_none_match=if_none_match(if_none_match_lines),
    )
    carry(response, task)
    if created:
        response.status_code = 201
        response.headers["Location"] = f"{API}/tasks/{task.id}"
    return TaskResponse(message="Task created" if created else "Task updated", data=task)


@router.get(
    "/{task_id:task_id}",
    summary="Read a task",
    dependencies=[requires("tasks:read")],
    response_model=TaskResponse,
    responses={
        **document_errors(TaskNotFound),
        200: {"headers": ETAG_HEADER},
        304: {"description": "It is as the ETag says.", "headers": ETAG_HEADER},
    },
)
async def read_task(
    task_id: TaskId,
    if_none_match_lines: IfNoneMatch,
    actor: CurrentUser,
    session: SessionDep,
    response: Response,
) -> TaskResponse | Response:
    """One task of the caller. Another's task is not found, as one that does not exist."""
    known = if_none_match(if_none_match_lines)
    task = await service.read_task(session, actor, task_id)
    if known is not None and known.match_weakly(entity_tag(task)):
        response = Response(status_code=304)
        carry(response, task)
        return response
    carry(response, task)
    return TaskResponse(data=task)


@router.patch(
    "/{task_id:task_id}",
    summary="Change a task",
    dependencies=[requires("tasks:write")],
    responses={
        **document_errors(TaskNotFound, ExternalIdTaken, VersionConflict),
        200: {"headers": ETAG_HEADER},
    },
)
async def update_task(
    task_id: TaskId,
    data: TaskUpdate,
    if_match_lines: IfMatch,
    actor: CurrentUser,
    session: SessionDep,
    response: Response,
) -> TaskResponse:
    """Change the fields that the body holds (JSON Merge Patch, RFC 7396) and leave the others.

    `metadata` is merged at every depth; `null` is for fields that may be null and for members of
    `metadata` that shall go. A task with a `due_at` takes a `due_on` only together with
    `"due_at": null`, and the other way round.

    Two patches of different fields at the same time both stand. A patch that changes nothing keeps
    `version` and `updated_at`.
    """
    versions = versions_named(if_match_lines, task_id)
    task = await service.update_task(session, actor, task_id, data, versions=versions)
    carry(response, task)
    return TaskResponse(message="Task updated", data=task)


@router.delete(
    "/{task_id:task_id}",
    summary="Delete a task",
    dependencies=[requires("tasks:write")],
    responses=document_errors(TaskNotFound, VersionConflict),
)
async def delete_task(
    task_id: TaskId,
    deletion: Annotated[TaskDeletion, Query()],
    if_match_lines: IfMatch,
    actor: CurrentUser,
    session: SessionDep,
) -> TaskDeletedResponse:
    """Move a task to the trash. It reads as 404 from then on.

    With `permanent=true` it is removed for good, also when it is in the trash already.
    """
    versions = versions_named(if_match_lines, task_id)
    await service.delete_task(
        session, actor, task_id, permanent=deletion.permanent, versions=versions
    )
    return TaskDeletedResponse(message="Task deleted", data=None)


@router.post(
    "/{task_id:task_id}/restore",
    summary="Restore a task",
    dependencies=[requires("tasks:write")],
    responses={
        **document_errors(TaskNotFound, ExternalIdTaken, VersionConflict),
        200: {"headers": ETAG_HEADER},
    },
)
async def restore_task(
    task_id: TaskId,
    if_match_lines: IfMatch,
    actor: CurrentUser,
    session: SessionDep,
    response: Response,
) -> TaskResponse:
    """Take a task out of the trash. One that is not in there stays as it is.

    Its `external_id` may have gone to another task meanwhile: that is a 409.
    """
    versions = versions_named(if_match_lines, task_id)
    task = await service.restore_task(session, actor, task_id, versions=versions)
    carry(response, task)
    return TaskResponse(message="Task restored", data=task)
