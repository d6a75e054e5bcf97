"""Tasks as a file, streamed: what is exported is never in memory as a whole."""

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from sqlalchemy import ColumnElement, Select, and_, literal, select

from app.accounts.credentials import Actor, CurrentUser, ensure_credential_is_live, requires
from app.core.bounds import NO_NUL
from app.core.routing import API, StrictRoute
from app.db.session import Database, Session, get_database
from app.tasks.filters import TaskFilters, given
from app.tasks.formats import FORMATS, ExportFormat, FileFormat
from app.tasks.models import Task
from app.tasks.ordering import ordering_of
from app.tasks.queries import matching

# This many tasks of the greatest size, 100 kB each, must fit in memory several times over.
TASKS_AT_ONCE = 200
# Of a task neither `created_at` nor the id ever changes.
_OLDEST_FIRST = ordering_of("created_at")


class TaskExport(TaskFilters):
    """The filters of the list, and the form of the file."""

    format: ExportFormat = Field(
        default=ExportFormat.JSON, description="The file's format.", examples=["csv"]
    )


def all_tasks_of(owner_id: int) -> ColumnElement[bool]:
    """For the command line, which acts without a credential that could end."""
    return and_(Task.owner_id == owner_id, Task.deleted_at.is_(None))


def _select_next(within: ColumnElement[bool], after: Task | None) -> Select[Task]:
    statement = select(Task).where(within).order_by(*_OLDEST_FIRST.order_by()).limit(TASKS_AT_ONCE)
    if after is None:
        return statement
    here = _OLDEST_FIRST.literal(_OLDEST_FIRST.value_of({"created_at": after.created_at}))
    return statement.where(_OLDEST_FIRST.is_after(here, literal(after.id)))


async def walk(
    database: Database, within: ColumnElement[bool], actor: Actor | None = None
) -> AsyncGenerator[Sequence[Task]]:
    """All tasks `within` a condition, some at a time, oldest first.

    A task that is there throughout comes exactly once. Between two yields no connection is held,
    so that a slow reader costs the pool nothing. Raises `Unauthenticated` when the credential of
    the `actor` ends, whose guard is in the condition; the command line acts without one.
    """
    last: Task | None = None
    while True:
        async with database.session() as session:
            tasks = (await session.scalars(_select_next(within, last))).all()
            if not tasks and actor is not None:
                await ensure_credential_is_live(Session(session), actor)
        yield tasks
        if len(tasks) < TASKS_AT_ONCE:
            return
        last = tasks[-1]


async def in_format(
    form: FileFormat, batches: AsyncGenerator[Sequence[Task]]
) -> AsyncGenerator[bytes]:
    """The pieces of the file that holds the tasks of all batches, the end of which it needs."""
    lead = form.opening
    separator = form.before_first
    async for tasks in batches:
        if tasks:
            # In a thread: it may take 100 ms, and others' requests must go on.
            yield lead + separator + await to_thread.run_sync(form.render, tasks)
            lead, separator = b"", form.between
    yield lead + form.closing


router = APIRouter(prefix=f"{API}/tasks", tags=["tasks"], route_class=StrictRoute)

# There is no bound; this is the largest that every generator can write down.
LARGEST_FILE = 2**31 - 1
FILE_SCHEMA = {"type": "string", "maxLength": LARGEST_FILE, "pattern": NO_NUL}
_FILES: dict[str, Any] = {
    "description": "The file. One that is cut short was broken off.",
    "headers": {
        "Content-Disposition": {
            "description": "Tells browsers to save the file, and its name.",
            "schema": {
                "type": "string",
                "maxLength": 100,
                "pattern": "^attachment; ",
                "examples": ['attachment; filename="tasks.csv"'],
            },
        }
    },
    "content": {
        "application/json": {
            "schema": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/TaskRead"},
                "maxItems": LARGEST_FILE,
            }
        },
        "text/csv": {"schema": FILE_SCHEMA},
        "text/calendar": {"schema": FILE_SCHEMA},
    },
}


@router.get(
    "/export",
    summary="Export tasks",
    dependencies=[requires("tasks:read")],
    response_class=StreamingResponse,
    responses={200: _FILES},
)
async def export_tasks(
    query: Annotated[TaskExport, Query()], actor: CurrentUser, request: Request
) -> StreamingResponse:
    """The caller's tasks that pass all filters, oldest first, as a file of any length.

    - `json`: an array of tasks as the other calls show them, each on a line of its own.
    - `csv`: RFC 4180 with a header row, in UTF-8 with a byte order mark, for spreadsheets. `tags`
      and `metadata` are JSON in their cells. An apostrophe stands before a cell that a spreadsheet
      would run as a formula; `taskflow tasks import` takes it away again.
    - `ics`: a calendar of to-dos (RFC 5545), for calendar programs.

    A task that is there throughout is in the file once. When the export cannot go on, because the
    credential is revoked for instance, the connection breaks; the file then lacks the `]`, the last
    line break or the `END:VCALENDAR` with which it would end.
    """
    form = FORMATS[query.format]
    batches = walk(get_database(request), matching(actor, given(query)), actor)
    # What goes wrong before the first byte is answered in words.
    first = await anext(batches)

    async def all_batches() -> AsyncGenerator[Sequence[Task]]:
        yield first
        async for tasks in batches:
            yield tasks

    return StreamingResponse(
        in_format(form, all_batches()),
        media_type=form.media_type,
        headers={"Content-Disposition": f'attachment; filename="tasks.{query.format}"'},
    )
