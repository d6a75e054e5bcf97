"""Tasks, only ever the caller's own."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app.accounts.credentials import CurrentUser, requires
from app.accounts.errors import InsufficientScope, Unauthenticated
from app.core.errors import (
    BODY_ERRORS,
    DatabaseUnavailable,
    InternalError,
    Overloaded,
    ValidationFailed,
    document_errors,
)
from app.core.pagination import CursorSigner, link_header
from app.core.routing import StrictRoute
from app.db.session import SessionDep
from app.tasks import service
from app.tasks.errors import ExternalIdTaken, TaskNotFound
from app.tasks.fields import TaskId
from app.tasks.schemas import (
    TaskCreate,
    TaskDeletedResponse,
    TaskDeletion,
    TaskListResponse,
    TaskQuery,
    TaskRead,
    TaskResponse,
    TaskUpdate,
)

router = APIRouter(
    prefix="/tasks",
    tags=["tasks"],
    route_class=StrictRoute,
    responses=document_errors(
        Unauthenticated, InsufficientScope, InternalError, DatabaseUnavailable, Overloaded
    ),
)


async def _cursors(request: Request) -> CursorSigner:
    return CursorSigner([request.app.state.settings.secret_key.get_secret_value()])


Cursors = Annotated[CursorSigner, Depends(_cursors)]


@router.post(
    "",
    status_code=201,
    summary="Create a task",
    dependencies=[requires("tasks:write")],
    responses=document_errors(*BODY_ERRORS, ExternalIdTaken),
)
async def create_task(
    data: TaskCreate, actor: CurrentUser, session: SessionDep, response: Response
) -> TaskResponse:
    """Store a new task of the caller. `Location` tells where it is from then on."""
    task = TaskRead.model_validate(await service.create_task(session, actor, data))
    response.headers["Location"] = f"/api/v1/tasks/{task.id}"
    return TaskResponse(message="Task created", data=task)


@router.get(
    "",
    summary="List tasks",
    dependencies=[requires("tasks:read")],
    responses=document_errors(ValidationFailed),
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
    link = link_header(request, query, pages=page.pages, next_cursor=page.next_cursor)
    if link:
        response.headers["Link"] = link
    return TaskListResponse(data=page)


@router.get(
    "/{task_id}",
    summary="Read a task",
    dependencies=[requires("tasks:read")],
    responses=document_errors(ValidationFailed, TaskNotFound),
)
async def read_task(task_id: TaskId, actor: CurrentUser, session: SessionDep) -> TaskResponse:
    """One task of the caller. Another's task is not found, as one that does not exist."""
    task = await service.read_task(session, actor, task_id)
    return TaskResponse(data=TaskRead.model_validate(task))


@router.patch(
    "/{task_id}",
    summary="Change a task",
    dependencies=[requires("tasks:write")],
    responses=document_errors(*BODY_ERRORS, TaskNotFound, ExternalIdTaken),
)
async def update_task(
    task_id: TaskId, data: TaskUpdate, actor: CurrentUser, session: SessionDep
) -> TaskResponse:
    """Change the fields that the body holds (JSON Merge Patch, RFC 7396) and leave the others.

    `metadata` is merged at every depth; `null` is for fields that may be null and for members of
    `metadata` that shall go. A task with a `due_at` takes a `due_on` only together with
    `"due_at": null`, and the other way round.

    Two patches of different fields at the same time both stand. A patch that changes nothing keeps
    `version` and `updated_at`.
    """
    task = await service.update_task(session, actor, task_id, data)
    return TaskResponse(message="Task updated", data=TaskRead.model_validate(task))


@router.delete(
    "/{task_id}",
    summary="Delete a task",
    dependencies=[requires("tasks:write")],
    responses=document_errors(ValidationFailed, TaskNotFound),
)
async def delete_task(
    task_id: TaskId,
    deletion: Annotated[TaskDeletion, Query()],
    actor: CurrentUser,
    session: SessionDep,
) -> TaskDeletedResponse:
    """Move a task to the trash. It reads as 404 from then on.

    With `permanent=true` it is removed for good, also when it is in the trash already.
    """
    await service.delete_task(session, actor, task_id, permanent=deletion.permanent)
    return TaskDeletedResponse(message="Task deleted", data=None)
